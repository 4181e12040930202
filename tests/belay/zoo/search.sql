-- Text search: parser, template, dictionaries, configuration.

CREATE TEXT SEARCH PARSER zoo.parser (
    START = prsd_start, GETTOKEN = prsd_nexttoken, END = prsd_end, HEADLINE = prsd_headline, LEXTYPES = prsd_lextype
);
CREATE TEXT SEARCH TEMPLATE zoo.template (INIT = dsimple_init, LEXIZE = dsimple_lexize);
CREATE TEXT SEARCH DICTIONARY zoo.dictionary (TEMPLATE = zoo.template, ACCEPT = false);
CREATE TEXT SEARCH DICTIONARY zoo."Stämmer" (TEMPLATE = snowball, LANGUAGE = german);
CREATE TEXT SEARCH CONFIGURATION zoo.configuration (PARSER = zoo.parser);
ALTER TEXT SEARCH CONFIGURATION zoo.configuration ADD MAPPING FOR asciiword, word WITH zoo.dictionary, zoo."Stämmer";
ALTER TEXT SEARCH CONFIGURATION zoo.configuration ADD MAPPING FOR email, url WITH simple;
CREATE TEXT SEARCH CONFIGURATION zoo.copied_english (COPY = pg_catalog.english);
ALTER TEXT SEARCH CONFIGURATION zoo.copied_english DROP MAPPING FOR version;
ALTER TEXT SEARCH CONFIGURATION zoo.configuration OWNER TO zoo_owner;
COMMENT ON TEXT SEARCH PARSER zoo.parser IS 'a parser';
COMMENT ON TEXT SEARCH TEMPLATE zoo.template IS 'a template';
COMMENT ON TEXT SEARCH DICTIONARY zoo.dictionary IS 'a dictionary';
COMMENT ON TEXT SEARCH CONFIGURATION zoo.configuration IS 'a configuration';
CREATE TABLE zoo.searched (body text, words tsvector GENERATED ALWAYS AS (to_tsvector('zoo.copied_english', body)) STORED);
INSERT INTO zoo.searched (body) VALUES ('the lions are running'), (''), (NULL), (E'back\\slashed ''quoted'' words');
CREATE INDEX searched_words ON zoo.searched USING gin (words);
