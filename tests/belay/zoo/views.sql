-- Views, rules, materialized views (on each other, without data).

CREATE VIEW zoo.simple WITH (security_barrier) AS SELECT id, name AS "Näme" FROM zoo.animal WHERE diet <> 'none' WITH CASCADED CHECK OPTION;
ALTER VIEW zoo.simple ALTER COLUMN "Näme" SET DEFAULT 'from the view';
ALTER VIEW zoo.simple OWNER TO zoo_keeper;
COMMENT ON VIEW zoo.simple IS 'a view';
COMMENT ON COLUMN zoo.simple.id IS 'a column of a view';
CREATE RECURSIVE VIEW zoo.counting (n) AS VALUES (1) UNION ALL SELECT n + 1 FROM counting WHERE n < 5;
-- Needs the primary key, which a dump makes long after its tables.
CREATE VIEW zoo.grouped AS SELECT c.id, c.name, c.size, count(k.id) AS keepers FROM zoo.cage c LEFT JOIN zoo.keeper k ON k.home_cage = c.id GROUP BY c.id;
CREATE VIEW zoo.odd_values AS SELECT E'it''s \\ a\nline' AS "quo""te", NULL AS nothing, ARRAY[1, NULL] AS arr, '2026-01-01'::date + interval '1 day' AS later,
    (SELECT a FROM zoo.own_method ORDER BY a LIMIT 1) AS sub, zoo.with_every_clause(1, 'x', 1, 2) AS f;
CREATE VIEW zoo.over_union AS SELECT id, name FROM zoo.simple s (id, name) UNION ALL SELECT a, b FROM zoo.dropped d (b, a) INTERSECT SELECT 1, 'x';
CREATE VIEW zoo.no_columns_view AS SELECT FROM zoo.no_columns;
\if :has_15
CREATE VIEW zoo.as_invoker WITH (security_invoker = true) AS SELECT * FROM zoo.animal;
\endif

CREATE MATERIALIZED VIEW zoo.totals AS SELECT diet, count(*) AS n, sum(weight) AS weight FROM zoo.animal GROUP BY diet;
CREATE UNIQUE INDEX totals_diet ON zoo.totals (diet);
CREATE MATERIALIZED VIEW zoo.a_totals_of_totals WITH (fillfactor = 80) AS SELECT sum(n) AS n FROM zoo.totals;
CREATE MATERIALIZED VIEW zoo.a_third AS SELECT t.n, s.diet FROM zoo.a_totals_of_totals t, zoo.totals s;
CREATE MATERIALIZED VIEW zoo.unpopulated AS SELECT * FROM zoo.indexed WITH NO DATA;
CREATE INDEX ON zoo.unpopulated (id);
-- Reads one that has no data, so it can have none.
CREATE MATERIALIZED VIEW zoo.also_unpopulated AS SELECT count(*) AS n FROM zoo.unpopulated WITH NO DATA;
CREATE MATERIALIZED VIEW zoo.through_a_view AS SELECT * FROM zoo.grouped;
ALTER MATERIALIZED VIEW zoo.totals OWNER TO zoo_owner;
ALTER MATERIALIZED VIEW zoo.totals ALTER weight SET STATISTICS 42;
COMMENT ON MATERIALIZED VIEW zoo.totals IS 'a materialized view';
CREATE STATISTICS zoo.totals_stats ON diet, n FROM zoo.totals;

CREATE TABLE zoo.ruled (id int, v text);
INSERT INTO zoo.ruled VALUES (1, 'was there before the rule'), (2, NULL);
-- A restore that loads rows with INSERT loses them to this rule.
CREATE RULE nothing_comes_in AS ON INSERT TO zoo.ruled DO INSTEAD NOTHING;
CREATE RULE keeps_old AS ON UPDATE TO zoo.ruled WHERE old.v IS NOT NULL DO ALSO (INSERT INTO zoo.lines VALUES (old.v); DELETE FROM zoo.empty);
CREATE RULE asleep AS ON DELETE TO zoo.ruled DO INSTEAD NOTHING;
ALTER TABLE zoo.ruled DISABLE RULE asleep;
ALTER TABLE zoo.ruled ENABLE ALWAYS RULE keeps_old;
COMMENT ON RULE keeps_old ON zoo.ruled IS 'a rule';
CREATE RULE into_animal AS ON INSERT TO zoo.grouped DO INSTEAD INSERT INTO zoo.lines VALUES (new.name) RETURNING 1, line, NULL::numeric, 0::bigint;
