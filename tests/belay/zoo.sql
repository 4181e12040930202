-- The zoo: one database that holds one of every kind of thing PostgreSQL can hold.
--
-- Loaded with psql -X -v ON_ERROR_STOP=1 by a superuser into an empty UTF8 database, on servers
-- 12 to 18. What a server is too old for, or was built without, is left out by a flag below.
-- Everything is computed from constants, so two loads give equal dumps. Stock pg_dump and
-- pg_restore carry all of it over; what they cannot is not in here.

\set QUIET on
SET client_min_messages = warning;
SET client_encoding = 'UTF8';
SET timezone = 'UTC';
-- Some of the functions below name things that come later.
SET check_function_bodies = off;

SELECT current_setting('server_version_num')::int >= 130000 AS has_13,
       current_setting('server_version_num')::int >= 140000 AS has_14,
       current_setting('server_version_num')::int >= 150000 AS has_15,
       current_setting('server_version_num')::int >= 160000 AS has_16,
       current_setting('server_version_num')::int >= 170000 AS has_17,
       current_setting('server_version_num')::int >= 180000 AS has_18,
       EXISTS (SELECT FROM pg_collation WHERE collprovider = 'i') AS has_icu,
       coalesce((SELECT 'lz4' = ANY (enumvals) FROM pg_settings WHERE name = 'default_toast_compression'), false) AS has_lz4
\gset

\ir zoo/roles.sql
\ir zoo/extensions.sql
\ir zoo/types.sql
\ir zoo/functions.sql
\ir zoo/values.sql
\ir zoo/tables.sql
\ir zoo/partitions.sql
\ir zoo/constraints.sql
\ir zoo/indexes.sql
\ir zoo/sequences.sql
\ir zoo/views.sql
\ir zoo/triggers.sql
\ir zoo/search.sql
\ir zoo/foreign.sql
\ir zoo/large_objects.sql
\ir zoo/bulk.sql
\ir zoo/rights.sql
\ir zoo/versions.sql
\ir zoo/database.sql
