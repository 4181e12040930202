-- Tables with bulk: many pages, few rows on many pages, rows of a megabyte, out of line values.

-- Rows are of one length: a server fills the gaps of its pages with short rows while it loads, and
-- even a stock restore then changes their order.
CREATE TABLE zoo.big (id int PRIMARY KEY, at timestamptz, name text, doc jsonb, n numeric);
INSERT INTO zoo.big
    SELECT i, '2026-01-01 00:00:00+00'::timestamptz + i * interval '1 second', md5(i::text) || E'\t\\' || i,
           jsonb_build_object('id', i, 'text', repeat(md5(i::text), 2), 'null', NULL), (1000 + i % 7) / 8.0
      FROM generate_series(20001, 35000) i;
-- Rows move about, so that their order on disk is no longer that of the key.
UPDATE zoo.big SET name = reverse(name) WHERE id % 11 = 0;
DELETE FROM zoo.big WHERE id % 13 = 0;

-- Many pages, few rows: at the end only, in the middle only, one a page, none at all.
CREATE TABLE zoo.sparse_end (id int, filler text);
INSERT INTO zoo.sparse_end SELECT i, repeat('f', 300) FROM generate_series(1, 10000) i;
DELETE FROM zoo.sparse_end WHERE id < 9990;
CREATE TABLE zoo.sparse_middle (id int, filler text);
INSERT INTO zoo.sparse_middle SELECT i, repeat('f', 300) FROM generate_series(1, 10000) i;
DELETE FROM zoo.sparse_middle WHERE id NOT BETWEEN 4990 AND 5010;
CREATE TABLE zoo.sparse_even (id int, filler text);
INSERT INTO zoo.sparse_even SELECT i, repeat('f', 300) FROM generate_series(1, 10000) i;
DELETE FROM zoo.sparse_even WHERE id % 25 <> 0;
CREATE TABLE zoo.sparse_none (id int, filler text);
INSERT INTO zoo.sparse_none SELECT i, repeat('f', 300) FROM generate_series(1, 5000) i;
DELETE FROM zoo.sparse_none;
VACUUM zoo.sparse_middle;
-- Rows that are all alike: a digest that ignores order must still count them.
CREATE TABLE zoo.all_alike (v text);
INSERT INTO zoo.all_alike SELECT 'the same' FROM generate_series(1, 5000);

CREATE TABLE zoo.megabytes (id int PRIMARY KEY, kind text, v text, raw bytea);
ALTER TABLE zoo.megabytes ALTER raw SET STORAGE EXTERNAL;
INSERT INTO zoo.megabytes VALUES
    (1, 'compresses well', repeat('a', 1048576), NULL),
    (2, 'is doubled by escaping', repeat(E'\\', 1048576), ''),
    (3, 'has many lines', repeat(E'\r\n', 524288), '\x'),
    (4, 'is empty', '', NULL);
INSERT INTO zoo.megabytes
    SELECT 5, 'does not compress', NULL, decode(string_agg(md5(i::text), '' ORDER BY i), 'hex') FROM generate_series(1, 65536) i;
INSERT INTO zoo.megabytes
    SELECT 6, 'out of line, in a few chunks', string_agg(md5(i::text), E'\n' ORDER BY i), NULL FROM generate_series(1, 300) i;
CREATE TABLE zoo.toasted (id int, a text, b text, c bytea);
INSERT INTO zoo.toasted
    SELECT i, repeat(md5(i::text), i * 3), repeat('compress me ', i * 50), decode(repeat(md5((i * 7)::text), i), 'hex') FROM generate_series(1, 150) i;
