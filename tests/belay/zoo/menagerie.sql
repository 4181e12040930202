-- Script of the extension zoo_menagerie, installed by the tests beside a copy of the server.

CREATE TABLE menagerie_setting (name text PRIMARY KEY, value text, ours boolean NOT NULL DEFAULT false);
INSERT INTO menagerie_setting VALUES ('zoo.open', 'yes'), ('zoo.lions', '3');
CREATE TABLE menagerie_keeper (id serial PRIMARY KEY, name text);
CREATE TABLE menagerie_cache (value text);
INSERT INTO menagerie_cache VALUES ('comes with the extension');
SELECT pg_catalog.pg_extension_config_dump('menagerie_setting', 'WHERE ours');
SELECT pg_catalog.pg_extension_config_dump('menagerie_keeper', '');
SELECT pg_catalog.pg_extension_config_dump('menagerie_keeper_id_seq', '');
