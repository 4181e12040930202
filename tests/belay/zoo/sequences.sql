-- Sequences in every state, also those a restore likes to set one too far.

CREATE SEQUENCE zoo.never_called;
CREATE SEQUENCE zoo.called_once;
SELECT nextval('zoo.called_once') \g /dev/null
CREATE SEQUENCE zoo.set_not_called START 5;
SELECT setval('zoo.set_not_called', 99, false) \g /dev/null
CREATE SEQUENCE zoo.downwards INCREMENT -7 MAXVALUE -1 MINVALUE -1000 START -1;
SELECT nextval('zoo.downwards'), nextval('zoo.downwards') \g /dev/null
CREATE SEQUENCE zoo.at_max AS smallint MAXVALUE 300 START 299;
SELECT setval('zoo.at_max', 300, true) \g /dev/null
CREATE SEQUENCE zoo.cycles AS integer MINVALUE 1 MAXVALUE 3 CYCLE CACHE 2;
SELECT setval('zoo.cycles', 3) \g /dev/null
CREATE SEQUENCE zoo.at_min MINVALUE -9223372036854775808 START -9223372036854775808;
CREATE SEQUENCE zoo.biggest INCREMENT 9223372036854775807;
SELECT setval('zoo.biggest', 9223372036854775807, true) \g /dev/null
CREATE SEQUENCE zoo.shared OWNED BY zoo.empty.id;
ALTER TABLE zoo.empty ALTER id SET DEFAULT nextval('zoo.shared');
SELECT setval('zoo.shared', 12345, true) \g /dev/null
CREATE SEQUENCE zoo.moved OWNED BY zoo.dropped.b;
ALTER SEQUENCE zoo.moved OWNED BY NONE;
ALTER SEQUENCE zoo.moved OWNER TO zoo_keeper;
CREATE SEQUENCE zoo."Séquence ""odd"" 🦁" START 3;
COMMENT ON SEQUENCE zoo.at_max IS 'a sequence';
GRANT USAGE ON SEQUENCE zoo.at_max TO zoo_visitor;
SELECT setval(pg_get_serial_sequence('public.in_public', 'id'), 1000, false) \g /dev/null
SELECT setval(pg_get_serial_sequence('zoo.visit', 'id'), 5000, true) \g /dev/null
\if :has_15
CREATE UNLOGGED SEQUENCE zoo.unlogged_sequence;
SELECT nextval('zoo.unlogged_sequence') \g /dev/null
\endif
