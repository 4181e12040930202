-- Constraints: cyclic, deferrable, not valid, exclusion, and the keys that reference partitions.

CREATE TABLE zoo.cage (
    id int PRIMARY KEY, name text CONSTRAINT cage_name UNIQUE DEFERRABLE INITIALLY DEFERRED, keeper int, twin int,
    size numeric CONSTRAINT roomy CHECK (size > 1 OR size IS NULL), extra int,
    UNIQUE (name, size) INCLUDE (extra)
);
CREATE TABLE zoo.keeper (
    id int PRIMARY KEY, home_cage int NOT NULL, boss int,
    CONSTRAINT lives_in FOREIGN KEY (home_cage) REFERENCES zoo.cage DEFERRABLE INITIALLY DEFERRED,
    CONSTRAINT has_boss FOREIGN KEY (boss) REFERENCES zoo.keeper ON DELETE SET NULL ON UPDATE CASCADE
);
ALTER TABLE zoo.cage ADD CONSTRAINT kept_by FOREIGN KEY (keeper) REFERENCES zoo.keeper DEFERRABLE INITIALLY IMMEDIATE;
ALTER TABLE zoo.cage ADD CONSTRAINT twin_of FOREIGN KEY (twin) REFERENCES zoo.cage ON DELETE CASCADE DEFERRABLE;
BEGIN;
SET CONSTRAINTS ALL DEFERRED;
INSERT INTO zoo.cage VALUES (1, 'lions', 1, 2, 5), (2, 'tigers', 2, 1, NULL), (3, NULL, NULL, 3, 2);
INSERT INTO zoo.keeper VALUES (1, 2, 2), (2, 1, 1), (3, 3, NULL);
COMMIT;
COMMENT ON CONSTRAINT lives_in ON zoo.keeper IS 'a foreign key';
COMMENT ON CONSTRAINT roomy ON zoo.cage IS 'a check';

CREATE TABLE zoo.not_valid (id int, cage int, v int);
INSERT INTO zoo.not_valid VALUES (1, 999, -1), (2, 1, 1), (2, NULL, NULL);
ALTER TABLE zoo.not_valid ADD CONSTRAINT no_such_cage FOREIGN KEY (cage) REFERENCES zoo.cage NOT VALID;
ALTER TABLE zoo.not_valid ADD CONSTRAINT positive CHECK (v > 0) NOT VALID;
COMMENT ON CONSTRAINT positive ON zoo.not_valid IS 'rows that were there before break it';

CREATE TABLE zoo.two_keys (a int, b text, c int, PRIMARY KEY (a, b));
INSERT INTO zoo.two_keys VALUES (1, '', 1), (1, 'x', 2);
CREATE TABLE zoo.full_match (a int, b text, FOREIGN KEY (a, b) REFERENCES zoo.two_keys MATCH FULL ON UPDATE SET DEFAULT);
INSERT INTO zoo.full_match VALUES (1, ''), (NULL, NULL);
CREATE TABLE zoo.to_partitioned (visit bigint, day date, FOREIGN KEY (visit, day) REFERENCES zoo.visit);
INSERT INTO zoo.to_partitioned SELECT id, day FROM zoo.visit WHERE id % 100 = 0;
CREATE TABLE zoo.from_partitioned (a int, b text, FOREIGN KEY (a, b) REFERENCES zoo.two_keys) PARTITION BY LIST (a);
CREATE TABLE zoo.from_partitioned_1 PARTITION OF zoo.from_partitioned FOR VALUES IN (1);
INSERT INTO zoo.from_partitioned VALUES (1, 'x');

CREATE TABLE zoo.reserved (
    during int4range, place circle,
    CONSTRAINT no_overlap EXCLUDE USING gist (during WITH &&) WHERE (NOT isempty(during)),
    CONSTRAINT no_touch EXCLUDE USING gist (place WITH &&) DEFERRABLE
);
INSERT INTO zoo.reserved VALUES ('[1,5)', '<(0,0),1>'), ('[5,9)', '<(9,9),1>'), ('empty', NULL), ('empty', NULL);
CREATE TABLE zoo.table_checks (a int, b int, CHECK (a < b), CONSTRAINT "odd 'name' \ 🦁" CHECK (a IS DISTINCT FROM b), CHECK (zoo.is_quiet('purr' || a)));
INSERT INTO zoo.table_checks VALUES (1, 2), (NULL, 1);
