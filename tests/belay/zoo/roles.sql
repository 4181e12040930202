-- Roles belong to the cluster, so a second zoo on the same cluster finds them there already.

SELECT NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'zoo_owner') AS no_roles_yet
\gset
\if :no_roles_yet
CREATE ROLE zoo_owner NOLOGIN CREATEDB;
CREATE ROLE zoo_keeper LOGIN PASSWORD 'peanuts' CONNECTION LIMIT 7 VALID UNTIL '2099-12-31 23:59:59+00';
CREATE ROLE zoo_visitor LOGIN NOINHERIT;
CREATE ROLE zoo_feeders NOLOGIN;
CREATE ROLE "zoo_Löwe ""der"" 'große' 🦁" NOLOGIN;
GRANT zoo_feeders TO zoo_keeper WITH ADMIN OPTION;
GRANT zoo_feeders TO zoo_visitor;
ALTER ROLE zoo_keeper SET work_mem = '5MB';
ALTER ROLE zoo_visitor SET search_path = '$user', public, "odd, name";
COMMENT ON ROLE zoo_keeper IS E'has the keys\nand the peanuts; ''quoted'' \\ backslashed';
\if :has_15
GRANT SET ON PARAMETER log_min_duration_statement TO zoo_keeper;
\endif
\endif

CREATE SCHEMA zoo AUTHORIZATION zoo_owner;
CREATE SCHEMA "Zoo Käfig 🦁 ""quoted"" 'n' \ %s" AUTHORIZATION "zoo_Löwe ""der"" 'große' 🦁";
CREATE SCHEMA zoo_empty;
COMMENT ON SCHEMA zoo IS 'where most of it lives';
COMMENT ON SCHEMA "Zoo Käfig 🦁 ""quoted"" 'n' \ %s" IS E'comment\nof\r\nlines\t''";$$ \\';
COMMENT ON SCHEMA public IS 'the comment of public was changed';
GRANT CREATE ON SCHEMA public TO zoo_keeper;
GRANT USAGE ON SCHEMA zoo TO zoo_visitor, zoo_keeper WITH GRANT OPTION;
GRANT USAGE ON SCHEMA zoo_empty TO PUBLIC;
