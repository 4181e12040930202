-- What came with the later majors.

\if :has_14
CREATE TYPE zoo.span AS RANGE (SUBTYPE = int8, MULTIRANGE_TYPE_NAME = zoo.spans);
CREATE TABLE zoo.multiranges (id int PRIMARY KEY, m int4multirange, t tstzmultirange, s zoo.spans, d datemultirange[]);
INSERT INTO zoo.multiranges VALUES
    (1, '{}', '{(,)}', '{[1,3],[5,)}', '{"{}","{[2026-01-01,2026-02-01),[2027-01-01,)}",NULL}'), (2, NULL, NULL, NULL, NULL),
    (3, '{[1,2),[4,5)}', '{[-infinity,2026-01-01 00:00:00+00)}', '{}', '{}');
CREATE INDEX ON zoo.multiranges USING gist (m);
\if :has_lz4
CREATE TABLE zoo.compressed (a text COMPRESSION lz4, b text COMPRESSION pglz);
INSERT INTO zoo.compressed SELECT repeat('lz4 ' || i, 3000), repeat('pglz ' || i, 3000) FROM generate_series(1, 20) i;
\endif
\endif

\if :has_15
CREATE TABLE zoo.nulls_alike (a int, b int, UNIQUE NULLS NOT DISTINCT (a), c text);
INSERT INTO zoo.nulls_alike VALUES (NULL, 1, 'x'), (1, 2, 'y');
CREATE UNIQUE INDEX ON zoo.nulls_alike (b, c) NULLS NOT DISTINCT;
CREATE TABLE zoo.some_set_null (a int, b text, FOREIGN KEY (a, b) REFERENCES zoo.two_keys ON DELETE SET NULL (b));
INSERT INTO zoo.some_set_null VALUES (1, 'x');
CREATE TABLE zoo.rounded (n numeric(3, -2), small numeric(2, 5));
INSERT INTO zoo.rounded VALUES (12345, 0.00012), (-99900, -0.00099);
\endif

\if :has_16
CREATE TABLE zoo.stored_as_default (v text STORAGE EXTERNAL, w bytea STORAGE DEFAULT);
INSERT INTO zoo.stored_as_default VALUES (repeat('x', 5000), '\x00');
\endif

\if :has_17
CREATE TABLE zoo.later_identity (id int GENERATED ALWAYS AS IDENTITY, a int) PARTITION BY RANGE (a);
CREATE TABLE zoo.later_identity_1 PARTITION OF zoo.later_identity FOR VALUES FROM (0) TO (10);
INSERT INTO zoo.later_identity (a) VALUES (1), (2);
CREATE TABLE zoo.endless (i interval);
INSERT INTO zoo.endless VALUES ('infinity'), ('-infinity'), (NULL);
CREATE COLLATION zoo.builtin (PROVIDER = builtin, LOCALE = 'C.UTF-8');
GRANT MAINTAIN ON zoo.animal TO zoo_visitor;
\endif

\if :has_18
CREATE TABLE zoo.virtual (a int, twice int GENERATED ALWAYS AS (a * 2) VIRTUAL, b text, kept text GENERATED ALWAYS AS (upper(b)) STORED);
INSERT INTO zoo.virtual (a, b) VALUES (1, 'x'), (NULL, NULL), (-2147483648 / 2, '');
CREATE TABLE zoo.only_virtual (a int GENERATED ALWAYS AS (6 * 7) VIRTUAL);
CREATE TABLE zoo.temporal (id int4range, during daterange, PRIMARY KEY (id, during WITHOUT OVERLAPS));
INSERT INTO zoo.temporal VALUES ('[1,2)', '[2026-01-01,2026-02-01)'), ('[1,2)', '[2026-02-01,)');
CREATE TABLE zoo.temporal_child (id int4range, during daterange, FOREIGN KEY (id, PERIOD during) REFERENCES zoo.temporal (id, PERIOD during));
INSERT INTO zoo.temporal_child VALUES ('[1,2)', '[2026-01-15,2026-03-01)');
CREATE TABLE zoo.not_enforced (a int CONSTRAINT ignored CHECK (a > 0) NOT ENFORCED, b int CONSTRAINT named_not_null NOT NULL);
INSERT INTO zoo.not_enforced VALUES (-1, 1);
CREATE TABLE zoo.not_null_not_valid (a int);
INSERT INTO zoo.not_null_not_valid VALUES (NULL);
ALTER TABLE zoo.not_null_not_valid ADD CONSTRAINT late NOT NULL a NOT VALID;
COMMENT ON CONSTRAINT late ON zoo.not_null_not_valid IS 'a constraint that is broken';
\endif
