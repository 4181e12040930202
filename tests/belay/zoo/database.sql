-- Settings of the database itself, those of roles in it, and the event triggers, which come last
-- because they get in the way of what would come after.

COMMENT ON DATABASE :"DBNAME" IS E'the zoo''s comment\nin two lines \\ 🦁';
ALTER DATABASE :"DBNAME" OWNER TO zoo_owner;
ALTER DATABASE :"DBNAME" CONNECTION LIMIT 90;
REVOKE TEMPORARY ON DATABASE :"DBNAME" FROM PUBLIC;
GRANT CREATE, CONNECT ON DATABASE :"DBNAME" TO zoo_keeper WITH GRANT OPTION;
GRANT TEMPORARY ON DATABASE :"DBNAME" TO "zoo_Löwe ""der"" 'große' 🦁";
-- Whoever dumps without setting these for the session gets other text for the same values.
ALTER DATABASE :"DBNAME" SET DateStyle = 'SQL, DMY';
ALTER DATABASE :"DBNAME" SET IntervalStyle = 'sql_standard';
ALTER DATABASE :"DBNAME" SET extra_float_digits = -3;
ALTER DATABASE :"DBNAME" SET bytea_output = 'escape';
ALTER DATABASE :"DBNAME" SET timezone = 'Asia/Kathmandu';
ALTER DATABASE :"DBNAME" SET search_path = zoo, "odd, schema", public;
ALTER DATABASE :"DBNAME" SET xmloption = 'document';
-- Sessions that wait must lift these first.
ALTER DATABASE :"DBNAME" SET statement_timeout = '20s';
ALTER DATABASE :"DBNAME" SET lock_timeout = '5s';
ALTER DATABASE :"DBNAME" SET idle_in_transaction_session_timeout = '2s';
ALTER DATABASE :"DBNAME" SET zoo.custom = E'it''s \\ "custom"';
ALTER ROLE zoo_visitor IN DATABASE :"DBNAME" SET statement_timeout = '1min';
ALTER ROLE zoo_visitor IN DATABASE :"DBNAME" SET search_path = "$user", zoo;

CREATE TABLE zoo.ddl_log (tag text);
CREATE FUNCTION zoo.refuse_ddl() RETURNS event_trigger LANGUAGE plpgsql AS $$
BEGIN
    IF coalesce(current_setting('zoo.allow_ddl', true), '') <> 'yes' THEN
        RAISE EXCEPTION 'the zoo refuses %', tg_tag;
    END IF;
END $$;
CREATE FUNCTION zoo.log_ddl() RETURNS event_trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO ddl_log SELECT command_tag FROM pg_event_trigger_ddl_commands();
END $$;
CREATE EVENT TRIGGER zoo_logs ON ddl_command_end WHEN TAG IN ('CREATE TABLE', 'ALTER TABLE', 'CREATE INDEX') EXECUTE FUNCTION zoo.log_ddl();
CREATE EVENT TRIGGER zoo_rewrites ON table_rewrite EXECUTE FUNCTION zoo.refuse_ddl();
CREATE EVENT TRIGGER zoo_drops ON sql_drop EXECUTE FUNCTION zoo.refuse_ddl();
ALTER EVENT TRIGGER zoo_drops DISABLE;
ALTER EVENT TRIGGER zoo_rewrites ENABLE ALWAYS;
COMMENT ON EVENT TRIGGER zoo_logs IS 'an event trigger';
CREATE EVENT TRIGGER zoo_refuses ON ddl_command_start
    WHEN TAG IN ('CREATE TABLE', 'CREATE INDEX', 'ALTER TABLE', 'DROP TABLE', 'CREATE FUNCTION', 'CREATE TRIGGER', 'CREATE SCHEMA')
    EXECUTE FUNCTION zoo.refuse_ddl();
