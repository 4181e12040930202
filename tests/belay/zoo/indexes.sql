-- Indexes of every method and option, extended statistics, replica identity, clustering.

CREATE TABLE zoo.indexed (id int NOT NULL, t text, doc jsonb, words tsvector, pt point, r int4range, ip inet, arr int[], at timestamptz NOT NULL, tag zoo.tag);
INSERT INTO zoo.indexed
    SELECT i, 'text ' || i % 97, jsonb_build_object('n', i, 'tags', array['a' || i % 3, 'b']), to_tsvector('simple', 'word' || i % 11 || ' word'),
           point(i, -i), int4range(i, i + 3), ('10.0.' || i % 256 || '.1')::inet, array[i, i % 7], '2026-01-01 00:00:00+00'::timestamptz + i * interval '1 minute', (i % 5)::zoo.tag
      FROM generate_series(1, 500) i;
CREATE UNIQUE INDEX indexed_id ON zoo.indexed (id) INCLUDE (t, at);
CREATE INDEX indexed_expression ON zoo.indexed (lower(t) COLLATE "C" text_pattern_ops DESC NULLS LAST, (id % 10), (zoo.slug(t)));
CREATE INDEX indexed_partial ON zoo.indexed (at) WHERE id > 100 AND t IS NOT NULL;
CREATE INDEX indexed_hash ON zoo.indexed USING hash (t) WITH (fillfactor = 60);
CREATE INDEX indexed_gin ON zoo.indexed USING gin (doc jsonb_path_ops, words) WITH (fastupdate = off);
CREATE INDEX indexed_gin_array ON zoo.indexed USING gin (arr);
CREATE INDEX indexed_gist ON zoo.indexed USING gist (pt, r) WITH (buffering = on);
CREATE OPERATOR CLASS zoo.own_box_ops DEFAULT FOR TYPE box USING zoo_gist AS
    OPERATOR 1 <<, OPERATOR 2 &<, OPERATOR 3 &&, OPERATOR 4 &>, OPERATOR 5 >>,
    FUNCTION 1 gist_box_consistent(internal, box, smallint, oid, internal), FUNCTION 2 gist_box_union(internal, internal),
    FUNCTION 5 gist_box_penalty(internal, internal, internal), FUNCTION 6 gist_box_picksplit(internal, internal),
    FUNCTION 7 gist_box_same(box, box, internal);
CREATE INDEX indexed_gist_own ON zoo.indexed USING zoo_gist (box(pt, pt));
CREATE INDEX indexed_spgist ON zoo.indexed USING spgist (ip inet_ops);
CREATE INDEX indexed_brin ON zoo.indexed USING brin (at, id) WITH (pages_per_range = 4, autosummarize = on);
CREATE INDEX indexed_own_class ON zoo.indexed (tag zoo.tag_ops);
CREATE INDEX "Indexed ""odd"" 🦁" ON zoo.indexed (t DESC);
ALTER INDEX zoo.indexed_expression ALTER COLUMN 2 SET STATISTICS 321;
ALTER TABLE zoo.indexed CLUSTER ON indexed_id;
ALTER TABLE zoo.indexed REPLICA IDENTITY USING INDEX indexed_id;
ALTER TABLE zoo.animal REPLICA IDENTITY FULL;
ALTER TABLE zoo.wide REPLICA IDENTITY NOTHING;
COMMENT ON INDEX zoo.indexed_partial IS 'an index';
CREATE TABLE zoo.key_from_index (a int NOT NULL, b int);
CREATE UNIQUE INDEX becomes_a_key ON zoo.key_from_index (a);
ALTER TABLE zoo.key_from_index ADD CONSTRAINT now_a_key PRIMARY KEY USING INDEX becomes_a_key;

ALTER TABLE zoo.indexed ALTER doc SET STORAGE EXTERNAL, ALTER t SET STORAGE MAIN, ALTER words SET STORAGE EXTENDED;
ALTER TABLE zoo.indexed ALTER arr SET STORAGE PLAIN;
CREATE STATISTICS zoo.indexed_stats (ndistinct, dependencies, mcv) ON id, t, at FROM zoo.indexed;
CREATE STATISTICS zoo."Odd stats 🦁" (mcv) ON id, tag FROM zoo.indexed;
ALTER STATISTICS zoo.indexed_stats OWNER TO zoo_owner;
COMMENT ON STATISTICS zoo.indexed_stats IS 'extended statistics';
\if :has_13
ALTER STATISTICS zoo.indexed_stats SET STATISTICS 77;
CREATE INDEX indexed_class_options ON zoo.indexed USING gist (words tsvector_ops (siglen = 100));
\endif
\if :has_14
CREATE STATISTICS zoo.on_expressions ON lower(t), (id % 10), at FROM zoo.indexed;
\endif
ANALYZE zoo.indexed;
