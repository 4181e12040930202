-- Functions, procedures, aggregates, languages, transforms, access methods.

CREATE FUNCTION zoo.with_every_clause(a int DEFAULT 1 + 1, INOUT b text DEFAULT 'it''s', VARIADIC c numeric[] DEFAULT '{}')
    LANGUAGE plpgsql STABLE STRICT LEAKPROOF SECURITY DEFINER PARALLEL SAFE COST 7.5
    SET search_path = zoo, pg_temp SET work_mem = '7MB' SET DateStyle = 'ISO, DMY'
AS $zoo$
BEGIN
    -- A body with $$, 'quotes', "names", \backslashes, 	tabs and 🦁.
    b := b || $$ $1 \n $$;
END
$zoo$;
COMMENT ON FUNCTION zoo.with_every_clause(int, text, numeric[]) IS 'a function';
ALTER FUNCTION zoo.with_every_clause(int, text, numeric[]) OWNER TO zoo_keeper;
SELECT E'CREATE FUNCTION zoo.with_line_ends() RETURNS text LANGUAGE sql AS ''SELECT 1::text\r\n;\r\n''' AS with_line_ends
\gset
:with_line_ends;
CREATE FUNCTION zoo.overloaded(int) RETURNS int LANGUAGE sql AS 'SELECT $1';
CREATE FUNCTION zoo.overloaded(text) RETURNS text LANGUAGE sql AS 'SELECT $1';
CREATE FUNCTION zoo.overloaded(anyelement, anyarray) RETURNS anyarray LANGUAGE sql AS 'SELECT array_append($2, $1)';
CREATE FUNCTION zoo.as_table(n int) RETURNS TABLE (id int, "odd name" text) LANGUAGE sql ROWS 3
    AS $$ SELECT i, 'row ' || i FROM generate_series(1, n) i $$;
CREATE FUNCTION "Zoo Käfig 🦁 ""quoted"" 'n' \ %s"."Füttern!"() RETURNS void LANGUAGE sql AS '';

-- These name tables without their schema, so that they only work where search_path is set for them.
CREATE FUNCTION zoo.next_animal_by_path() RETURNS int LANGUAGE sql SET search_path = zoo
    AS 'SELECT coalesce(max(id), 0) + 1 FROM animal';
CREATE FUNCTION zoo.lookup_without_schema() RETURNS int LANGUAGE plpgsql
    AS 'BEGIN RETURN (SELECT count(*) FROM animal); END';
CREATE FUNCTION zoo.always_raises() RETURNS int LANGUAGE plpgsql
    AS $$ BEGIN RAISE EXCEPTION 'this default must not be evaluated by a restore'; END $$;
CREATE FUNCTION zoo.is_quiet(sound text) RETURNS bool LANGUAGE plpgsql IMMUTABLE SET search_path = zoo
    AS $$ BEGIN
        IF sound = 'ROAR' THEN RAISE EXCEPTION 'too loud: %', sound; END IF;
        RETURN shout(sound) <> sound;
    END $$;
CREATE FUNCTION zoo.shout(text) RETURNS text LANGUAGE sql IMMUTABLE AS 'SELECT upper($1) || ''!''';
CREATE FUNCTION zoo.slug(name text) RETURNS text LANGUAGE sql IMMUTABLE SET search_path = zoo
    AS $$ SELECT lower(regexp_replace(shout(name), '\W+', '-', 'g')) $$;

CREATE PROCEDURE zoo.feed(INOUT portions int, animal text DEFAULT 'all')
    LANGUAGE plpgsql AS $$ BEGIN portions := portions - 1; COMMIT; END $$;
COMMENT ON PROCEDURE zoo.feed(int, text) IS 'a procedure';
\if :has_14
CREATE PROCEDURE zoo.count_out(OUT n int) LANGUAGE sql AS 'SELECT 1';
CREATE FUNCTION zoo.parsed_body(a int, b int) RETURNS int LANGUAGE sql IMMUTABLE
    BEGIN ATOMIC
        SELECT a + b + (SELECT count(*) FROM zoo.as_table(3));
    END;
CREATE FUNCTION zoo.parsed_return(a int) RETURNS int LANGUAGE sql RETURN zoo.parsed_body(a, 1);
\endif

CREATE FUNCTION zoo.add_up(state numeric, next numeric) RETURNS numeric
    LANGUAGE sql IMMUTABLE PARALLEL SAFE AS 'SELECT coalesce($1, 0) + coalesce($2, 0)';
CREATE FUNCTION zoo.take_off(state numeric, next numeric) RETURNS numeric
    LANGUAGE sql IMMUTABLE PARALLEL SAFE AS 'SELECT $1 - coalesce($2, 0)';
CREATE FUNCTION zoo.halve(state numeric) RETURNS numeric LANGUAGE sql IMMUTABLE AS 'SELECT $1 / 2';
CREATE AGGREGATE zoo.half_sum(numeric) (
    SFUNC = zoo.add_up, STYPE = numeric, SSPACE = 64, FINALFUNC = zoo.halve, FINALFUNC_MODIFY = READ_ONLY,
    COMBINEFUNC = zoo.add_up, INITCOND = '0', PARALLEL = SAFE,
    MSFUNC = zoo.add_up, MINVFUNC = zoo.take_off, MSTYPE = numeric, MINITCOND = '0'
);
CREATE AGGREGATE zoo.every_third(ORDER BY anyelement) (
    SFUNC = ordered_set_transition, STYPE = internal, FINALFUNC = mode_final, FINALFUNC_EXTRA
);
CREATE AGGREGATE zoo.rank_of(VARIADIC "any" ORDER BY VARIADIC "any") (
    SFUNC = ordered_set_transition_multi, STYPE = internal, FINALFUNC = rank_final, FINALFUNC_EXTRA, HYPOTHETICAL
);
COMMENT ON AGGREGATE zoo.half_sum(numeric) IS 'an aggregate';
ALTER AGGREGATE zoo.half_sum(numeric) OWNER TO zoo_owner;

CREATE FUNCTION zoo.call_handler() RETURNS language_handler LANGUAGE c AS '$libdir/plpgsql', 'plpgsql_call_handler';
CREATE FUNCTION zoo.inline_handler(internal) RETURNS void LANGUAGE c AS '$libdir/plpgsql', 'plpgsql_inline_handler';
CREATE TRUSTED LANGUAGE zoo_speak HANDLER zoo.call_handler INLINE zoo.inline_handler;
COMMENT ON LANGUAGE zoo_speak IS 'a language';
ALTER LANGUAGE zoo_speak OWNER TO zoo_owner;
GRANT USAGE ON LANGUAGE zoo_speak TO zoo_keeper WITH GRANT OPTION;
CREATE FUNCTION zoo.spoken() RETURNS int LANGUAGE zoo_speak AS 'BEGIN RETURN 1; END';
CREATE TRANSFORM FOR int LANGUAGE sql (
    FROM SQL WITH FUNCTION prsd_lextype(internal), TO SQL WITH FUNCTION int4recv(internal)
);
COMMENT ON TRANSFORM FOR int LANGUAGE sql IS 'a transform';
CREATE ACCESS METHOD zoo_heap TYPE TABLE HANDLER heap_tableam_handler;
CREATE ACCESS METHOD zoo_gist TYPE INDEX HANDLER gisthandler;
COMMENT ON ACCESS METHOD zoo_heap IS 'an access method';
