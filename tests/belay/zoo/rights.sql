-- Owners, rights, default rights, row security.

GRANT SELECT, INSERT ON zoo.animal TO zoo_visitor WITH GRANT OPTION;
GRANT ALL ON zoo.animal TO zoo_keeper;
GRANT SELECT (name, diet), UPDATE (name) ON zoo.animal TO "zoo_Löwe ""der"" 'große' 🦁";
GRANT SELECT ON zoo.big TO PUBLIC;
REVOKE ALL ON zoo.text_values FROM postgres;
GRANT SELECT ON zoo.text_values TO postgres;
-- A right that was granted on by one who has it.
SET SESSION AUTHORIZATION zoo_visitor;
GRANT SELECT ON zoo.animal TO zoo_feeders;
RESET SESSION AUTHORIZATION;
REVOKE EXECUTE ON FUNCTION zoo.always_raises() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION zoo.shout(text) TO zoo_keeper;
GRANT EXECUTE ON PROCEDURE zoo.feed(int, text) TO zoo_visitor;
REVOKE USAGE ON TYPE zoo.diet FROM PUBLIC;
GRANT USAGE ON TYPE zoo.diet TO zoo_visitor;
GRANT USAGE ON DOMAIN zoo.weight TO zoo_visitor;
GRANT USAGE ON FOREIGN DATA WRAPPER zoo_wrapper TO zoo_keeper;
GRANT USAGE ON FOREIGN SERVER zoo_server TO zoo_visitor WITH GRANT OPTION;
GRANT SELECT ON zoo.totals, zoo.simple, zoo.far_away TO zoo_visitor;
-- Rights on what initdb made.
GRANT EXECUTE ON FUNCTION pg_catalog.pg_ls_dir(text) TO zoo_keeper;
REVOKE EXECUTE ON FUNCTION pg_catalog.pg_sleep(double precision) FROM PUBLIC;
GRANT SELECT ON pg_catalog.pg_authid TO zoo_keeper;

ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO zoo_visitor;
ALTER DEFAULT PRIVILEGES FOR ROLE zoo_owner IN SCHEMA zoo GRANT ALL ON TABLES TO zoo_keeper WITH GRANT OPTION;
ALTER DEFAULT PRIVILEGES FOR ROLE zoo_owner REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC;
ALTER DEFAULT PRIVILEGES FOR ROLE zoo_keeper GRANT USAGE ON SEQUENCES TO PUBLIC;
ALTER DEFAULT PRIVILEGES FOR ROLE zoo_keeper REVOKE USAGE ON TYPES FROM PUBLIC;
ALTER DEFAULT PRIVILEGES FOR ROLE zoo_owner GRANT CREATE ON SCHEMAS TO zoo_feeders;

CREATE TABLE zoo.secured (id int PRIMARY KEY, owner name DEFAULT CURRENT_USER, v text);
INSERT INTO zoo.secured VALUES (1, 'zoo_keeper', 'k'), (2, 'zoo_visitor', 'v'), (3, 'nobody', 'seen by none');
ALTER TABLE zoo.secured OWNER TO zoo_owner;
ALTER TABLE zoo.secured ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY own_rows ON zoo.secured USING (owner = CURRENT_USER) WITH CHECK (owner = CURRENT_USER AND v <> E'it''s \\ odd');
CREATE POLICY reads ON zoo.secured AS RESTRICTIVE FOR SELECT TO zoo_visitor, "zoo_Löwe ""der"" 'große' 🦁" USING (id IN (SELECT id FROM zoo.animal));
CREATE POLICY "adds 🦁" ON zoo.secured FOR INSERT TO zoo_keeper WITH CHECK (true);
COMMENT ON POLICY own_rows ON zoo.secured IS 'a policy';
-- Enabled without a policy: only its owner and those above the law see rows.
CREATE TABLE zoo.secured_without_policy (v text);
INSERT INTO zoo.secured_without_policy VALUES ('invisible');
ALTER TABLE zoo.secured_without_policy ENABLE ROW LEVEL SECURITY;
-- A policy that is not in force.
CREATE TABLE zoo.secured_not (v text);
CREATE POLICY idle ON zoo.secured_not FOR DELETE USING (false);
