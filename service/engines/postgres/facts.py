"""The statement that reads the catalogue of a whole database, as one JSON text.

One text, as two of them are compared at once: while nothing has changed, nothing is taken apart.
"""

FACTS = """
WITH RECURSIVE base AS (
    SELECT oid AS declared, oid AS base FROM pg_catalog.pg_type WHERE typtype <> 'd'
    UNION ALL
    SELECT t.oid, b.base FROM pg_catalog.pg_type t JOIN base b ON t.typbasetype = b.declared
    WHERE t.typtype = 'd'
), relation AS (
    SELECT c.oid, n.nspname, c.relname, c.relkind, c.relispartition,
        pg_catalog.pg_table_is_visible(c.oid) AS visible,
        pg_catalog.has_table_privilege(c.oid, 'SELECT') AS whole,
        greatest(c.reltuples, -1)::bigint AS rows
    FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    WHERE c.relkind IN ('r', 'p', 'f', 'v', 'm')
    AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
    AND pg_catalog.has_schema_privilege(n.oid, 'USAGE')
    AND (pg_catalog.has_table_privilege(c.oid, 'SELECT')
        OR pg_catalog.has_any_column_privilege(c.oid, 'SELECT'))
), tree AS (
    SELECT oid AS root, oid FROM relation WHERE relkind = 'p'
    UNION ALL
    SELECT t.root, i.inhrelid FROM tree t JOIN pg_catalog.pg_inherits i ON i.inhparent = t.oid
), leaves AS (
    SELECT t.root, bool_or(c.relkind = 'f') AS foreign_parts,
        CASE WHEN bool_and(c.reltuples >= 0) THEN sum(c.reltuples::numeric)::bigint ELSE -1 END
            AS rows
    FROM tree t JOIN pg_catalog.pg_class c ON c.oid = t.oid AND c.relkind <> 'p'
    GROUP BY t.root
), attribute AS (
    -- What is declared NOT NULL may be NULL in a foreign table, and, since version 18, before the
    -- constraint was validated.
    SELECT a.attrelid, a.attnum, a.attname, a.attcollation, a.atttypid, a.atttypmod,
        NOT a.attnotnull OR r.relkind NOT IN ('r', 'p') OR coalesce(l.foreign_parts, false)
        OR EXISTS (SELECT FROM pg_catalog.pg_constraint k WHERE k.conrelid = a.attrelid
            AND k.contype = 'n' AND k.conkey = ARRAY[a.attnum] AND NOT k.convalidated) AS nullable
    FROM relation r JOIN pg_catalog.pg_attribute a ON a.attrelid = r.oid
    LEFT JOIN leaves l ON l.root = r.oid
    WHERE a.attnum > 0 AND NOT a.attisdropped
    AND (r.whole OR pg_catalog.has_column_privilege(r.oid, a.attnum, 'SELECT'))
), columns AS (
    SELECT a.attrelid, json_agg(json_build_array(
        a.attname, pg_catalog.format_type(a.atttypid, a.atttypmod), a.nullable, a.atttypid::bigint,
        json_build_array(n.nspname, t.typname),
        CASE WHEN t.typcategory = 'A' THEN 'array' WHEN t.typtype = 'c' THEN 'composite' ELSE '' END
    ) ORDER BY a.attnum) AS columns
    FROM attribute a JOIN base b ON b.declared = a.atttypid
    JOIN pg_catalog.pg_type t ON t.oid = b.base
    JOIN pg_catalog.pg_namespace n ON n.oid = t.typnamespace
    GROUP BY a.attrelid
), part AS (
    -- One row for each column of each index that could order a stream.
    SELECT i.indexrelid, i.indrelid, i.indisprimary, i.indkey::text AS numbers, p.place,
        a.attname, a.nullable, i.indnkeyatts, i.indoption[p.place] AS direction, o.opcdefault,
        EXISTS (SELECT FROM pg_catalog.pg_amop m WHERE m.amopfamily = o.opcfamily
            AND m.amoplefttype = o.opcintype AND m.amoprighttype = o.opcintype
            AND m.amopstrategy = 5 AND pg_catalog.pg_operator_is_visible(m.amopopr)) AS visible,
        CASE WHEN i.indcollation[p.place] NOT IN (0, coalesce(a.attcollation, 0))
            THEN format('%I.%I', s.nspname, l.collname) END AS its_collation
    FROM relation r JOIN pg_catalog.pg_index i ON i.indrelid = r.oid
    JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid
    JOIN pg_catalog.pg_am m ON m.oid = c.relam AND m.amname = 'btree'
    CROSS JOIN LATERAL generate_series(0, i.indnkeyatts - 1) AS p (place)
    JOIN pg_catalog.pg_opclass o ON o.oid = i.indclass[p.place]
    LEFT JOIN attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[p.place]
    LEFT JOIN pg_catalog.pg_collation l ON l.oid = i.indcollation[p.place]
    LEFT JOIN pg_catalog.pg_namespace s ON s.oid = l.collnamespace
    WHERE i.indisunique AND i.indisvalid AND i.indisready AND i.indimmediate
    AND i.indpred IS NULL AND i.indexprs IS NULL
), whole AS (
    SELECT indexrelid, indrelid, json_build_object(
        'name', (SELECT relname FROM pg_catalog.pg_class WHERE oid = indexrelid),
        'primary', indisprimary,
        'numbers', numbers,
        'columns', json_agg(coalesce(attname, '') ORDER BY place),
        'collations', coalesce(json_object_agg(attname, its_collation)
            FILTER (WHERE its_collation IS NOT NULL), '{}')
    ) AS index
    FROM part GROUP BY indexrelid, indrelid, indisprimary, numbers
    -- All of its columns ascending, or all descending: then it is read backwards.
    HAVING bool_and(opcdefault AND visible AND NOT coalesce(nullable, false))
    AND (bool_and(direction = 0) OR bool_and(direction = 3))
), indexes AS (
    SELECT indrelid, json_agg(index ORDER BY indexrelid) AS indexes FROM whole GROUP BY indrelid
)
SELECT json_agg(json_build_object(
    'oid', r.oid::bigint,
    'schema', r.nspname,
    'name', r.relname,
    'kind', r.relkind,
    'bare', r.visible AND NOT r.relispartition,
    'rows', nullif(coalesce(l.rows, r.rows), -1),
    'heirs', h.heirs,
    'columns', c.columns,
    'indexes', CASE WHEN h.heirs THEN '[]' ELSE coalesce(i.indexes, '[]') END
) ORDER BY r.oid)::text
FROM relation r JOIN columns c ON c.attrelid = r.oid
LEFT JOIN indexes i ON i.indrelid = r.oid LEFT JOIN leaves l ON l.root = r.oid
CROSS JOIN LATERAL (SELECT r.relkind = 'r' AND EXISTS (
    SELECT FROM pg_catalog.pg_inherits p WHERE p.inhparent = r.oid) AS heirs) AS h
"""
"""A row for each relation: its columns, and the unique indexes that could be its key."""
