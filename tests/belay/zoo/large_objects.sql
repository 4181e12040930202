-- Large objects with their numbers, owners, comments and rights.

SELECT lo_from_bytea(4200001, '\x00ff5c2e0a'), lo_from_bytea(4200002, ''),
       lo_from_bytea(4200003, (SELECT decode(string_agg(md5(i::text), '' ORDER BY i), 'hex') FROM generate_series(1, 20000) i)),
       lo_from_bytea(4200004, convert_to(repeat(E'line\\\r\n\t', 3000), 'UTF8')), lo_from_bytea(4294967295, 'x') \g /dev/null
-- One with a hole in it.
SELECT lo_create(4200005), lo_put(4200005, 300000, '\xabcd') \g /dev/null
ALTER LARGE OBJECT 4200002 OWNER TO zoo_owner;
ALTER LARGE OBJECT 4200003 OWNER TO zoo_keeper;
GRANT SELECT ON LARGE OBJECT 4200001 TO zoo_visitor, PUBLIC;
GRANT UPDATE ON LARGE OBJECT 4200003 TO zoo_visitor WITH GRANT OPTION;
COMMENT ON LARGE OBJECT 4200001 IS E'a large object''s comment\nin two lines';
CREATE TABLE zoo.refers_to_objects (id int PRIMARY KEY, object oid);
INSERT INTO zoo.refers_to_objects VALUES (1, 4200001), (2, 4294967295), (3, 0);
