-- Tables of values that are easily bent: every built-in type at its ends, and text that COPY must escape.

CREATE TABLE zoo.text_values (id int PRIMARY KEY, kind text NOT NULL, value text, padded char(6), short varchar(9), raw bytea);
INSERT INTO zoo.text_values VALUES
    (1, 'null', NULL, NULL, NULL, NULL),
    (2, 'empty', '', '', '', ''),
    (3, 'end of data', '\.', '\.', '\.', '\x5c2e'),
    (4, 'null marker', '\N', '\N', '\N', '\x5c4e'),
    (5, 'word null', 'NULL', 'null', 'NULL', '\x00'),
    (6, 'tab', E'\ta\tb\t', E'\t', E'\t\t', '\x09'),
    (7, 'newline', E'\na\n\nb\n', E'\n', E'\n', '\x0a'),
    (8, 'carriage return', E'\ra\r\nb\r', E'\r\n', E'\r', '\x0d0a'),
    (9, 'backslashes', E'\\ \\\\ \\n \\t \\x41 \\101 \\', E'\\', E'\\\\', '\x5c5c'),
    (10, 'spaces', '   ', '  a  ', '  b  ', '\x20'),
    (11, 'quotes', 'it''s "quoted" `so` $$so$$ --', '''', '"', '\x2722'),
    (12, 'astral', '🦁🏳️‍🌈 e' || U&'\0301' || ' مرحبا 動物園 ' || U&'\200B\FEFF', '🦁', '動物園', '\xf09fa681'),
    (13, 'lines', E'COPY zoo.x FROM stdin;\n\\.\nDROP TABLE zoo.x;\n', 'x', 'y', '\xdeadbeef'),
    (14, 'highest', U&'\+10FFFF' || U&'\D7FF' || U&'\E000', U&'\FFFD', 'z', '\xff'),
    (15, 'brackets', '{}[](),;:''"', '{}', '(,)', '\x7b7d'),
    (16, 'hex look', '\x', '\x41', '0x41', '\x5c7834'),
    (17, 'percent', '%s %n %% $1 :name', '%', ':x', '\x25'),
    (18, 'bell and such', E'\x01\x02\x07\b\f\x0b\x0e\x1b\x1f\x7f', E'\b', E'\f', (SELECT decode(string_agg(lpad(to_hex(b), 2, '0'), '' ORDER BY b), 'hex') FROM generate_series(0, 255) b));
INSERT INTO zoo.text_values
    SELECT 100 + c, 'character ' || c, chr(c) || 'a' || chr(c), chr(c), chr(c), decode(lpad(to_hex(c), 2, '0'), 'hex')
      FROM generate_series(1, 255) c;

-- One column, so that the line is the value.
CREATE TABLE zoo.lines (line text);
INSERT INTO zoo.lines VALUES ('\.'), (''), (NULL), ('\N'), ('\'), (E'\n'), (E'\r'), (E'\r\n'), (E'\t'), ('\.'), (E'\\.\n\\.'), (' '), ('--'), ('\r');

CREATE TABLE zoo.number_values (
    id int PRIMARY KEY, i2 int2, i4 int4, i8 int8, f4 float4, f8 float8, n numeric, n3 numeric(12, 3), cash money, b bool
);
INSERT INTO zoo.number_values VALUES
    (1, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL),
    (2, -32768, -2147483648, -9223372036854775808, '-Infinity', '-Infinity', -1e-50, -999999999.999, '-92233720368547758.08', false),
    (3, 32767, 2147483647, 9223372036854775807, 'Infinity', 'Infinity', 1e100, 999999999.999, '92233720368547758.07', true),
    (4, 0, 0, 0, '-0', '-0', 0.000, 0.000, '0', NULL),
    (5, 1, 1, 1, 'NaN', 'NaN', 'NaN', 'NaN', '1.10', true),
    (6, 2, 2, 2, '1e-45', '5e-324', ('0.' || repeat('0', 16382) || '1')::numeric, 0.001, '0.01', true),
    (7, 3, 3, 3, '3.4028235e38', '1.7976931348623157e308', (repeat('9', 131072))::numeric, 1.100, '3.00', true),
    (8, 4, 4, 4, 0.1, 0.1, 0.1000, 0.1, '4', true),
    (9, 5, 5, 5, 16777216.5, 0.30000000000000004, 123456789.123456789123456789, 5, '5', true),
    (10, 6, 6, 6, '1.17549435e-38', '2.2250738585072014e-308', 1e-1000, 6, '6', true);
\if :has_14
INSERT INTO zoo.number_values (id, n) VALUES (11, 'Infinity'), (12, '-Infinity');
\endif

CREATE TABLE zoo.time_values (
    id int PRIMARY KEY, d date, t time, tz timetz, ts timestamp, tstz timestamptz, iv interval, ms timestamp(3), ym interval year to month
);
INSERT INTO zoo.time_values VALUES
    (1, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL),
    (2, '4714-11-24 BC', '00:00', '00:00:00+15:59:59', '4714-11-24 00:00:00 BC', '4714-11-24 00:00:00+00 BC', '-178000000 years', '2000-01-01', '-1-2'),
    (3, '5874897-12-31', '24:00:00', '24:00:00-15:59:59', '294276-12-31 23:59:59.999999', '294276-12-31 23:59:59.999999+00', '178000000 years', '2000-01-01 00:00:00.9994', '1-2'),
    (4, 'infinity', '23:59:59.999999', '12:00:00.000001+05:45', 'infinity', 'infinity', '0', 'infinity', '0'),
    (5, '-infinity', '12:34:56.7', '01:02:03-03:30', '-infinity', '-infinity', '1 mon -1 day +00:00:00.000001', '-infinity', '11 mon'),
    (6, '0001-12-31 BC', '00:00:00.000001', '00:00+00', '0001-01-01 00:00:00', '0044-03-15 12:00:00+01 BC', '-1 year +2 mons -3 days +04:05:06.789', '1999-12-31 23:59:59.999', '-11 mon'),
    (7, '2024-02-29', '02:30', '02:30+02', '2026-03-29 02:30', '2026-03-29 01:30:00+00', '3 days 04:05:06', '2026-10-25 02:30', '120 mon'),
    (8, '1900-01-01', '01:01:01.1', '01:01:01.1-00:00:01', '1883-11-18 12:03:58', '1883-11-18 12:03:58+00:34:08', '-00:00:00.5', '1970-01-01', '1 year');

CREATE TABLE zoo.other_values (
    id int PRIMARY KEY, u uuid, js json, jb jsonb, x xml, bits bit(5), varbits varbit, ip inet, net cidr, mac macaddr, mac8 macaddr8,
    pt point, ln line, ls lseg, bx box, pa path, po polygon, ci circle, tv tsvector, tq tsquery, lsn pg_lsn, snap txid_snapshot,
    jp jsonpath, ch "char", nm name, o oid, rc regclass, rt regtype, rp regprocedure, ro regrole, xd xid, cd cid, td tid
);
INSERT INTO zoo.other_values (id) VALUES (1);
INSERT INTO zoo.other_values VALUES (
    2, '00000000-0000-0000-0000-000000000000', E' { "a" :\t1, "a": 2,\n "b":"\\u00e9\\\\" } ', '{"z": 1e400, "a": [null, "", "\\", "\u2028", -0.10], "": {}}',
    '<?xml version="1.0"?><zoo><!-- a comment --><cage n="1">a &amp; b</cage></zoo>', B'10101', B'', '::ffff:1.2.3.4/128', '10.0.0.0/8',
    '08:00:2b:01:02:03', '08:00:2b:01:02:03:04:05', '(1e-300,-0)', '{1,-1,0}', '[(0,0),(1e10,-1e-10)]', '(1,1),(0,0)', '[(0,0),(1,1)]',
    '((0,0),(1,1),(2,0))', '<(0,0),0>', $$'a b':1A,3 'it''s':2B,16383 '\\':4$$, $$'a':*AB & !('b' <-> 'c') | 'd \\'$$, '16/B374D848', '10:20:10,14,15',
    '$.a[*] ? (@.b > 1 && exists (@.c)).d', '\', 'a name', 4294967295, 'zoo.text_values', 'zoo.diet', 'zoo.shout(text)', 'zoo_owner', '3', '4', '(0,1)'
), (
    3, 'ffffffff-ffff-ffff-ffff-ffffffffffff', 'null', 'null', 'content <b>without</b> a root', B'00000', B'1111111111111111111111111', 'fe80::1/64', '::/0',
    'ff:ff:ff:ff:ff:ff', 'ff:ff:ff:ff:ff:ff:ff:ff', '(Infinity,NaN)', '{0,1,-5.5}', '[(1,1),(1,1)]', '(Infinity,1),(-Infinity,0)', '((0,0),(1,1),(5,5))',
    '((0,0))', '<(1,2),1e100>', '', '', '0/0', '1:1:', '"$.a"', '', '', 0, 'pg_class', 'int4[]', NULL, 'postgres', '4294967295', '0', '(4294967295,65535)'
);
INSERT INTO zoo.other_values (id, ch) VALUES (4, 'a'), (5, '~');

CREATE TABLE zoo.nested_values (
    id int PRIMARY KEY, ints int[], texts text[][], lower_bounds int[], places zoo.place[], one zoo.label, odd zoo.empty_composite,
    dom zoo.valid_place, w zoo.weight, cub zoo.weight_of_cub, codes zoo.codes, loose zoo.loosely, diet zoo.diet, diets zoo.diet[], tag zoo.tag DEFAULT '7',
    opening zoo.opening, letters zoo.letters, ir int4range, nr numrange, tr tstzrange, dr daterange[], whole_row zoo.lines, shrunk zoo.shrunk
);
INSERT INTO zoo.nested_values (id, w, cub) VALUES (1, 1, 1);
INSERT INTO zoo.nested_values VALUES (
    2, '{}', '{{a,NULL},{"NULL",""}}', '[-2:0]={1,2,3}', array[row('x,y', 1, '(1,2)')::zoo.place, NULL, row(NULL, NULL, NULL)::zoo.place],
    row(E'a\t"b"\\', row('', 0, NULL), '{carnivore,"it''s \"odd\", \\ 🦁",""}'), row(), row('hall', 1, '(0,0)'), 0.001, 49.999, '{1,2}', 4,
    'omnivore', '{none,""}', '99', '[08:00,24:00]', '[")","a,b")', 'empty', '(,)', '["-infinity","infinity")', '{empty,"[2026-01-01,)"}', row(E'\n\\.'), row(1, '0044-03-15 BC')
), (
    3, '{{{1}}}', '{"{","}","\"","\\",","," "}', '[5:5][1:2]={{1,2}}', '{}', NULL, NULL, NULL, 1, 1, NULL, NULL, '', '{}', '-1',
    'empty', '(,z)', '(,5)', '[1.10,1.100]', '(,)', '{}', row(NULL), NULL
);
INSERT INTO zoo.nested_values (id, loose, w, cub) VALUES (4, -2, 2, 2);
\if :has_13
CREATE TABLE zoo.snapshot_values (x xid8, s pg_snapshot, c regcollation);
INSERT INTO zoo.snapshot_values VALUES ('18446744073709551615', '10:20:10,14,15', 'zoo.plain'), (NULL, NULL, NULL);
\endif
