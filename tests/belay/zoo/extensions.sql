-- Extensions, those of contrib where they are installed, and the tests' own one, which is the only
-- one at hand with configuration tables.

CREATE SCHEMA zoo_ext;
SELECT bool_or(name = 'citext') AS has_citext, bool_or(name = 'hstore') AS has_hstore,
       bool_or(name = 'pg_trgm') AS has_trgm, bool_or(name = 'btree_gist') AS has_btree_gist,
       bool_or(name = 'ltree') AS has_ltree, bool_or(name = 'postgres_fdw') AS has_postgres_fdw,
       bool_or(name = 'file_fdw') AS has_file_fdw, bool_or(name = 'zoo_menagerie') AS has_menagerie
  FROM pg_available_extensions
\gset

\if :has_citext
CREATE EXTENSION citext SCHEMA zoo_ext;
COMMENT ON EXTENSION citext IS 'an extension with a comment of ours';
CREATE TABLE zoo.ext_citext (id int PRIMARY KEY, label zoo_ext.citext UNIQUE);
INSERT INTO zoo.ext_citext VALUES (1, 'Okapi'), (2, 'ZEBRA'), (3, NULL);
\endif

\if :has_hstore
CREATE EXTENSION hstore SCHEMA zoo_ext;
CREATE TABLE zoo.ext_hstore (id int PRIMARY KEY, traits zoo_ext.hstore);
INSERT INTO zoo.ext_hstore VALUES (1, 'legs=>4, "a key"=>"a \"value\"", none=>NULL'), (2, '');
CREATE INDEX ON zoo.ext_hstore USING gin (traits);
GRANT EXECUTE ON FUNCTION zoo_ext.akeys(zoo_ext.hstore) TO zoo_visitor;
REVOKE EXECUTE ON FUNCTION zoo_ext.avals(zoo_ext.hstore) FROM PUBLIC;
\endif

\if :has_trgm
CREATE EXTENSION pg_trgm SCHEMA zoo_ext;
CREATE TABLE zoo.ext_trgm (name text);
INSERT INTO zoo.ext_trgm SELECT 'animal number ' || i FROM generate_series(1, 50) i;
CREATE INDEX ext_trgm_gist ON zoo.ext_trgm USING gist (name zoo_ext.gist_trgm_ops);
\endif

\if :has_btree_gist
CREATE EXTENSION btree_gist SCHEMA zoo_ext;
CREATE TABLE zoo.ext_booking (
    cage int, during tsrange,
    CONSTRAINT one_animal_a_time EXCLUDE USING gist (cage WITH =, during WITH &&) DEFERRABLE INITIALLY DEFERRED
);
INSERT INTO zoo.ext_booking VALUES (1, '[2026-01-01,2026-02-01)'), (1, '[2026-02-01,2026-03-01)'), (2, '(,)');
\endif

\if :has_ltree
CREATE EXTENSION ltree SCHEMA zoo_ext;
CREATE TABLE zoo.ext_taxon (path zoo_ext.ltree);
INSERT INTO zoo.ext_taxon VALUES ('animalia.chordata.mammalia'), ('animalia.arthropoda');
CREATE INDEX ON zoo.ext_taxon USING gist (path);
\endif

\if :has_menagerie
-- Rows marked as ours are configuration and belong to a dump; the others come with the extension.
CREATE EXTENSION zoo_menagerie SCHEMA zoo_ext;
INSERT INTO zoo_ext.menagerie_setting VALUES ('feeding.hour', E'07:30\twith a tab', true), ('gate.colour', '', true);
INSERT INTO zoo_ext.menagerie_keeper (name) VALUES ('Ada'), ('Bo'), (NULL);
UPDATE zoo_ext.menagerie_cache SET value = 'is not dumped';
GRANT SELECT ON zoo_ext.menagerie_setting TO zoo_visitor;
\endif
