-- Triggers in every state. Had a restore fired them, rows would be changed or refused.

CREATE TABLE zoo.trigger_log (at text, what text);
CREATE FUNCTION zoo.spoil() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO trigger_log VALUES (TG_NAME, 'was fired during a restore');
    NEW.v := 'spoiled';
    RETURN NEW;
END $$;
CREATE FUNCTION zoo.refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION '% refuses', TG_NAME; END $$;
CREATE TABLE zoo.triggered (id int PRIMARY KEY, v text, w int);
INSERT INTO zoo.triggered VALUES (1, 'a', 1), (2, '', NULL), (3, NULL, 3);
CREATE TRIGGER b_spoils BEFORE INSERT OR UPDATE OF v, w ON zoo.triggered FOR EACH ROW WHEN (NEW.id > 0) EXECUTE FUNCTION zoo.spoil();
CREATE TRIGGER a_refuses AFTER INSERT OR DELETE OR TRUNCATE ON zoo.triggered FOR EACH STATEMENT EXECUTE FUNCTION zoo.refuse('with', 'it''s', E'\\ args\n');
CREATE TRIGGER disabled BEFORE INSERT ON zoo.triggered FOR EACH ROW EXECUTE FUNCTION zoo.refuse();
CREATE TRIGGER on_replica BEFORE INSERT ON zoo.triggered FOR EACH ROW EXECUTE FUNCTION zoo.refuse();
CREATE TRIGGER always BEFORE INSERT ON zoo.triggered FOR EACH ROW EXECUTE FUNCTION zoo.refuse();
CREATE TRIGGER "with 'tables' 🦁" AFTER UPDATE ON zoo.triggered REFERENCING OLD TABLE AS was NEW TABLE AS "Is" FOR EACH STATEMENT EXECUTE FUNCTION zoo.refuse();
CREATE CONSTRAINT TRIGGER deferred AFTER INSERT ON zoo.triggered FROM zoo.animal DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION zoo.refuse();
ALTER TABLE zoo.triggered DISABLE TRIGGER disabled, ENABLE REPLICA TRIGGER on_replica, ENABLE ALWAYS TRIGGER always;
COMMENT ON TRIGGER disabled ON zoo.triggered IS 'a trigger';
CREATE TRIGGER instead_of INSTEAD OF INSERT ON zoo.over_union FOR EACH ROW EXECUTE FUNCTION zoo.refuse();

CREATE TABLE zoo.triggered_parts (id int, v text) PARTITION BY RANGE (id);
CREATE TABLE zoo.triggered_parts_1 PARTITION OF zoo.triggered_parts FOR VALUES FROM (0) TO (10);
CREATE TABLE zoo.triggered_parts_2 PARTITION OF zoo.triggered_parts FOR VALUES FROM (10) TO (20);
INSERT INTO zoo.triggered_parts VALUES (1, 'a'), (11, 'b');
CREATE TRIGGER on_all AFTER INSERT ON zoo.triggered_parts FOR EACH ROW EXECUTE FUNCTION zoo.refuse();
CREATE TRIGGER on_one BEFORE INSERT ON zoo.triggered_parts_2 FOR EACH ROW EXECUTE FUNCTION zoo.spoil();
ALTER TABLE zoo.triggered_parts_1 DISABLE TRIGGER on_all;
\if :has_13
CREATE TRIGGER before_all BEFORE INSERT ON zoo.triggered_parts FOR EACH ROW EXECUTE FUNCTION zoo.spoil();
\endif
-- All of them off, the ones of the foreign keys too.
CREATE TABLE zoo.all_triggers_off (a int, b text, FOREIGN KEY (a, b) REFERENCES zoo.two_keys);
INSERT INTO zoo.all_triggers_off VALUES (1, '');
CREATE TRIGGER off BEFORE INSERT ON zoo.all_triggers_off FOR EACH ROW EXECUTE FUNCTION zoo.refuse();
ALTER TABLE zoo.all_triggers_off DISABLE TRIGGER ALL;
