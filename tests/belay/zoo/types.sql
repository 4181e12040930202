-- Types of every sort, collations, casts, operators, operator classes, conversions.

CREATE TYPE zoo.diet AS ENUM ('carnivore', 'herbivore', 'it''s "odd", \ 🦁', '');
ALTER TYPE zoo.diet ADD VALUE 'omnivore' BEFORE 'herbivore';
ALTER TYPE zoo.diet ADD VALUE 'none' AFTER 'carnivore';
COMMENT ON TYPE zoo.diet IS 'values were added between others';

CREATE TYPE zoo.empty_composite AS ();
CREATE TYPE zoo.place AS (hall text, row_no int, spot point);
CREATE TYPE zoo.label AS (name text COLLATE "C", at zoo.place, diets zoo.diet[]);
COMMENT ON COLUMN zoo.label.name IS 'a column of a composite type';
CREATE TYPE zoo.shrunk AS (a int, b text, c date);
ALTER TYPE zoo.shrunk DROP ATTRIBUTE b;
ALTER TYPE zoo.shrunk OWNER TO zoo_owner;

CREATE DOMAIN zoo.weight AS numeric(10, 3) DEFAULT 1.5 NOT NULL CONSTRAINT heavier_than_air CHECK (VALUE > 0);
CREATE DOMAIN zoo.short_text AS varchar(20) COLLATE "C" CHECK (VALUE !~ '^\s+$');
CREATE DOMAIN zoo.valid_place AS zoo.place CHECK ((VALUE).row_no IS NULL OR (VALUE).row_no > 0);
CREATE DOMAIN zoo.codes AS int[] CHECK (array_length(VALUE, 1) < 10);
CREATE DOMAIN zoo.weight_of_cub AS zoo.weight CHECK (VALUE < 50);
CREATE DOMAIN zoo.loosely AS int;
ALTER DOMAIN zoo.loosely ADD CONSTRAINT even CHECK (VALUE % 2 = 0) NOT VALID;
COMMENT ON DOMAIN zoo.weight IS 'a domain';
COMMENT ON CONSTRAINT heavier_than_air ON DOMAIN zoo.weight IS 'a constraint of a domain';

-- A base type of our own: an integer under another name, with its shell type dumped first.
CREATE TYPE zoo.tag;
CREATE FUNCTION zoo.tag_in(cstring) RETURNS zoo.tag AS 'int4in' LANGUAGE internal IMMUTABLE STRICT;
CREATE FUNCTION zoo.tag_out(zoo.tag) RETURNS cstring AS 'int4out' LANGUAGE internal IMMUTABLE STRICT;
CREATE TYPE zoo.tag (INPUT = zoo.tag_in, OUTPUT = zoo.tag_out, LIKE = int4, CATEGORY = 'U', DEFAULT = '42');
CREATE TYPE zoo.left_as_a_shell;
CREATE FUNCTION zoo.tag_lt(zoo.tag, zoo.tag) RETURNS bool AS 'int4lt' LANGUAGE internal IMMUTABLE STRICT;
CREATE FUNCTION zoo.tag_le(zoo.tag, zoo.tag) RETURNS bool AS 'int4le' LANGUAGE internal IMMUTABLE STRICT;
CREATE FUNCTION zoo.tag_eq(zoo.tag, zoo.tag) RETURNS bool AS 'int4eq' LANGUAGE internal IMMUTABLE STRICT;
CREATE FUNCTION zoo.tag_ge(zoo.tag, zoo.tag) RETURNS bool AS 'int4ge' LANGUAGE internal IMMUTABLE STRICT;
CREATE FUNCTION zoo.tag_gt(zoo.tag, zoo.tag) RETURNS bool AS 'int4gt' LANGUAGE internal IMMUTABLE STRICT;
CREATE FUNCTION zoo.tag_ne(zoo.tag, zoo.tag) RETURNS bool AS 'int4ne' LANGUAGE internal IMMUTABLE STRICT;
CREATE FUNCTION zoo.tag_cmp(zoo.tag, zoo.tag) RETURNS int AS 'btint4cmp' LANGUAGE internal IMMUTABLE STRICT;
CREATE OPERATOR zoo.< (LEFTARG = zoo.tag, RIGHTARG = zoo.tag, PROCEDURE = zoo.tag_lt, COMMUTATOR = OPERATOR(zoo.>), NEGATOR = OPERATOR(zoo.>=), RESTRICT = scalarltsel, JOIN = scalarltjoinsel);
CREATE OPERATOR zoo.<= (LEFTARG = zoo.tag, RIGHTARG = zoo.tag, PROCEDURE = zoo.tag_le);
CREATE OPERATOR zoo.= (LEFTARG = zoo.tag, RIGHTARG = zoo.tag, PROCEDURE = zoo.tag_eq, COMMUTATOR = OPERATOR(zoo.=), NEGATOR = OPERATOR(zoo.<>), MERGES, HASHES);
CREATE OPERATOR zoo.<> (LEFTARG = zoo.tag, RIGHTARG = zoo.tag, PROCEDURE = zoo.tag_ne, NEGATOR = OPERATOR(zoo.=));
CREATE OPERATOR zoo.>= (LEFTARG = zoo.tag, RIGHTARG = zoo.tag, PROCEDURE = zoo.tag_ge, NEGATOR = OPERATOR(zoo.<));
CREATE OPERATOR zoo.> (LEFTARG = zoo.tag, RIGHTARG = zoo.tag, PROCEDURE = zoo.tag_gt, COMMUTATOR = OPERATOR(zoo.<));
COMMENT ON OPERATOR zoo.= (zoo.tag, zoo.tag) IS 'an operator';
CREATE OPERATOR FAMILY zoo.tag_family USING btree;
CREATE OPERATOR CLASS zoo.tag_ops DEFAULT FOR TYPE zoo.tag USING btree FAMILY zoo.tag_family AS
    OPERATOR 1 zoo.<, OPERATOR 2 zoo.<=, OPERATOR 3 zoo.=, OPERATOR 4 zoo.>=, OPERATOR 5 zoo.>,
    FUNCTION 1 zoo.tag_cmp(zoo.tag, zoo.tag);
COMMENT ON OPERATOR CLASS zoo.tag_ops USING btree IS 'an operator class';
COMMENT ON OPERATOR FAMILY zoo.tag_family USING btree IS 'an operator family';
CREATE OPERATOR FAMILY zoo.lonely_family USING hash;
ALTER OPERATOR FAMILY zoo.lonely_family USING hash OWNER TO zoo_owner;

CREATE FUNCTION zoo.minutes_between(time, time) RETURNS float8
    LANGUAGE sql IMMUTABLE STRICT AS 'SELECT extract(epoch FROM ($1 - $2))::float8 / 60';
CREATE TYPE zoo.opening AS RANGE (SUBTYPE = time, SUBTYPE_DIFF = zoo.minutes_between);
CREATE TYPE zoo.letters AS RANGE (SUBTYPE = text, COLLATION = "C", SUBTYPE_OPCLASS = text_pattern_ops);
ALTER TYPE zoo.opening OWNER TO zoo_keeper;

CREATE COLLATION zoo.plain (LOCALE = 'C');
CREATE COLLATION zoo.copied FROM "C";
COMMENT ON COLLATION zoo.plain IS 'a collation';
\if :has_icu
CREATE COLLATION zoo.german_phonebook (PROVIDER = icu, LOCALE = 'de-u-co-phonebk');
CREATE COLLATION zoo.caseless (PROVIDER = icu, LOCALE = 'und-u-ks-level2', DETERMINISTIC = false);
CREATE TABLE zoo.collated (
    id int PRIMARY KEY,
    german text COLLATE zoo.german_phonebook,
    caseless text COLLATE zoo.caseless UNIQUE
);
INSERT INTO zoo.collated VALUES (1, 'Äffin', 'ape'), (2, 'Affe', 'Bear'), (3, 'Öl', ''), (4, NULL, NULL);
CREATE INDEX ON zoo.collated (german DESC NULLS LAST);
\endif

CREATE FUNCTION zoo.place_to_text(zoo.place) RETURNS text LANGUAGE sql IMMUTABLE AS 'SELECT ($1).hall';
CREATE CAST (zoo.place AS text) WITH FUNCTION zoo.place_to_text(zoo.place) AS ASSIGNMENT;
CREATE CAST (zoo.tag AS int4) WITHOUT FUNCTION AS IMPLICIT;
CREATE CAST (int4 AS zoo.tag) WITHOUT FUNCTION;
CREATE CAST (zoo.diet AS bytea) WITH INOUT;
COMMENT ON CAST (zoo.place AS text) IS 'a cast';

CREATE CONVERSION zoo.to_latin FOR 'UTF8' TO 'LATIN1' FROM utf8_to_iso8859_1;
CREATE DEFAULT CONVERSION zoo.from_latin FOR 'LATIN1' TO 'UTF8' FROM iso8859_1_to_utf8;
COMMENT ON CONVERSION zoo.to_latin IS 'a conversion';
