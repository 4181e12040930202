-- Foreign data wrappers, servers, user mappings, foreign tables; publications.

CREATE FOREIGN DATA WRAPPER zoo_wrapper OPTIONS (debug 'true', "odd ""name""" 'it''s \ odd');
CREATE SERVER zoo_server TYPE 'other zoo' VERSION '1.2' FOREIGN DATA WRAPPER zoo_wrapper OPTIONS (host 'nowhere.invalid', dbname 'zoo');
CREATE USER MAPPING FOR PUBLIC SERVER zoo_server;
CREATE USER MAPPING FOR zoo_keeper SERVER zoo_server OPTIONS (user 'keeper', password 'it''s \ secret');
ALTER SERVER zoo_server OWNER TO zoo_owner;
COMMENT ON FOREIGN DATA WRAPPER zoo_wrapper IS 'a wrapper';
COMMENT ON SERVER zoo_server IS 'a server';
CREATE FOREIGN TABLE zoo.far_away (id int OPTIONS (key 'yes') NOT NULL, v text DEFAULT 'x' CHECK (v <> 'y')) SERVER zoo_server OPTIONS (table_name 'far "away"');
CREATE FOREIGN TABLE zoo.far_child () INHERITS (zoo.second_parent) SERVER zoo_server;
COMMENT ON FOREIGN TABLE zoo.far_away IS 'a foreign table';
ALTER FOREIGN TABLE zoo.far_away ALTER v SET STATISTICS 9, ALTER v OPTIONS (ADD column_name 'V');
CREATE TABLE zoo.half_remote (a int, v text) PARTITION BY LIST (a);
CREATE TABLE zoo.half_remote_here PARTITION OF zoo.half_remote FOR VALUES IN (1);
CREATE FOREIGN TABLE zoo.half_remote_there PARTITION OF zoo.half_remote FOR VALUES IN (2) SERVER zoo_server;
INSERT INTO zoo.half_remote VALUES (1, 'here');
\if :has_postgres_fdw
CREATE EXTENSION postgres_fdw SCHEMA zoo_ext;
CREATE SERVER zoo_postgres FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host 'nowhere.invalid', fetch_size '7');
CREATE USER MAPPING FOR zoo_owner SERVER zoo_postgres OPTIONS (user 'u', password 'p');
CREATE FOREIGN TABLE zoo.unreachable (id int, v text) SERVER zoo_postgres OPTIONS (table_name 'none');
\endif
\if :has_file_fdw
-- The file is not there: whoever reads this table while dumping fails.
CREATE EXTENSION file_fdw SCHEMA zoo_ext;
CREATE SERVER zoo_files FOREIGN DATA WRAPPER file_fdw;
CREATE FOREIGN TABLE zoo.no_such_file (line text) SERVER zoo_files OPTIONS (filename '/nonexistent/zoo.csv', format 'csv');
\endif

-- A server that was not set up for logical replication warns at each.
SET client_min_messages = error;
CREATE PUBLICATION zoo_some FOR TABLE zoo.animal, zoo.text_values, ONLY zoo.parent WITH (publish = 'insert, delete');
-- Deletes are not published, so that tables without a key can still be deleted from.
CREATE PUBLICATION zoo_all FOR ALL TABLES WITH (publish = 'insert, truncate');
CREATE PUBLICATION zoo_none;
ALTER PUBLICATION zoo_none OWNER TO zoo_owner;
COMMENT ON PUBLICATION zoo_some IS 'a publication';
\if :has_13
CREATE PUBLICATION zoo_via_root FOR TABLE zoo.visit WITH (publish_via_partition_root = true);
\endif
\if :has_15
CREATE PUBLICATION zoo_filtered FOR TABLE zoo.indexed (id, t, at) WHERE (id > 5);
CREATE PUBLICATION zoo_schema FOR TABLES IN SCHEMA zoo_empty, TABLE zoo.animal;
\endif
SET client_min_messages = warning;
