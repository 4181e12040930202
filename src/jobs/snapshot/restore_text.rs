//! Writes `RESTORE.txt`: the commands that restore a snapshot with stock tools only.

use crate::rules::manifest::{DatabaseProperties, DatabaseSql, Inventory, Manifest};
use crate::rules::sql;

/// The statements about the database itself, for psql with the variable `target` and a server of
/// at least `server_version_num`.
pub fn database_sql(properties: &DatabaseProperties, server_version_num: u32) -> DatabaseSql {
    let target = ":\"target\"";
    let terminated =
        |statements: Vec<String>| statements.iter().map(|sql| format!("{sql};\n")).collect::<String>();
    DatabaseSql {
        create: terminated(vec![sql::create_database(target, properties, server_version_num)]),
        properties: terminated(sql::database_properties(target, properties)),
    }
}

/// The text of `RESTORE.txt`; it names no table, so that it may lie in the open.
pub fn restore_text(manifest: &Manifest, inventory: &Inventory) -> String {
    let major = manifest.pg_dump_version.split('.').next().unwrap_or_default();
    TEXT.replace("@ID@", manifest.id.as_str())
        .replace("@DATABASE@", &manifest.database.escape_default().to_string())
        .replace("@TAKEN@", &manifest.taken_at.to_rfc3339_opts(chrono::SecondsFormat::Secs, true))
        .replace("@MAJOR@", major)
        .replace("@ENCODING@", &inventory.copy_encoding)
        .replace("@SCHEMA_SHA@", &manifest.objects.schema.stored_sha256.to_string())
        .replace("@DATA_SHA@", &manifest.objects.data.stored_sha256.to_string())
        .replace("@GLOBALS_SHA@", &manifest.objects.globals.stored_sha256.to_string())
        .replace("@INVENTORY_SHA@", &manifest.objects.inventory.stored_sha256.to_string())
}

const TEXT: &str = r##"# How to restore snapshot @ID@ without Belay
#
# Database @DATABASE@, taken at @TAKEN@.
#
# Needs: age, gunzip, jq, sha256sum, and psql and pg_restore of PostgreSQL @MAJOR@ or newer.
# This file is a shell script with comments. Copy the repository (at least this folder and the
# folder "chunks" three levels up) to a disk, change to this folder, say which identity opens the
# snapshot, and what the restored database is to be called:
#
# (Out of a bucket: aws s3 cp --recursive s3://BUCKET/PREFIX/CLUSTER CLUSTER, or any other S3 client.)
#
#   export IDENTITY=/path/to/identity.txt TARGET=restored PGHOST=/run/postgresql PGUSER=postgres
#   sh RESTORE.txt
#
# The server's libpq variables (PGHOST, PGPORT, PGUSER, ...) say where to restore to. A database
# called $TARGET must not exist yet; nothing else is touched but roles and tablespaces (step 3). The
# snapshot is loaded into a database "restoring_..." that gets the name when all of it is there: if
# this script fails, drop that one and begin again.

set -eu
: "${IDENTITY:?set IDENTITY to the file of an age identity}" "${TARGET:?set TARGET to the name of the new database}"
CHUNKS=${CHUNKS:-../../../chunks}
LOADING=restoring_$$
# Names come as UTF-8; a role or server that only reads unless told otherwise is told.
WRITING='-c default_transaction_read_only=off'
export PGCLIENTENCODING=UTF8 PGOPTIONS="$WRITING"
WORK=$(mktemp -d)
trap 'rm -rf "$WORK"' EXIT
trap 'exit 1' HUP INT TERM
# In two steps, not by a pipe: a shell looks at the status of a pipe's last command only.
unseal() {
  age --decrypt --identity "$IDENTITY" --output "$WORK/sealed.gz" "$1"
  gunzip --stdout "$WORK/sealed.gz"
}

# 1. The objects are those that were stored.
sha256sum --check --quiet <<'SUMS'
@SCHEMA_SHA@  schema.dump.gz.age
@DATA_SHA@  data.dump.gz.age
@GLOBALS_SHA@  globals.sql.gz.age
@INVENTORY_SHA@  inventory.json.gz.age
SUMS
jq -r --arg chunks "$CHUNKS" '.signed.chunks[] | "\(.stored_sha256)  \($chunks)/\(.name[:2])/\(.name).copy.gz.age"' manifest.json >"$WORK/chunks.sums"
if [ -s "$WORK/chunks.sums" ]; then sha256sum --check --quiet "$WORK/chunks.sums"; fi

# 2. Decrypt what is small. A failure of age or gunzip shows here.
unseal inventory.json.gz.age >"$WORK/inventory.json"
unseal schema.dump.gz.age >"$WORK/schema.dump"
unseal globals.sql.gz.age >"$WORK/globals.sql"
unseal data.dump.gz.age >"$WORK/data.dump"

# 3. Roles and tablespaces. "already exists" is to be expected for those that are there; the
#    passwords and settings of existing roles are set to those of the snapshot: leave this step
#    out if they should stay.
psql -X -q -d postgres -f "$WORK/globals.sql" || true

# 4. The database, under a name for now.
jq -r .sql.create "$WORK/inventory.json" >"$WORK/create.sql"
psql -X -q -v ON_ERROR_STOP=1 -v target="$LOADING" -d postgres -f "$WORK/create.sql"

# 5. Tables, without indexes, and the rows of small tables.
export PGOPTIONS="$WRITING -c search_path= -c DateStyle=ISO -c IntervalStyle=postgres -c check_function_bodies=off"
pg_restore --exit-on-error --section=pre-data -d "$LOADING" "$WORK/schema.dump"
pg_restore --exit-on-error -d "$LOADING" "$WORK/data.dump"

# 6. The rows of large tables, chunk by chunk.
copy_table() {
  statement=$1
  shift
  for chunk in "$@"; do
    unseal "$CHUNKS/$(printf %.2s "$chunk")/$chunk.copy.gz.age" >"$WORK/chunk"
    PGOPTIONS="$PGOPTIONS -c lc_monetary=C -c xmloption=content" psql -X -q -v ON_ERROR_STOP=1 -d "$LOADING" -c "$statement" <"$WORK/chunk"
  done
}
jq -r 'def id: "\"" + gsub("\""; "\"\"") + "\"";
  .tables[] | select(.chunks)
  | (.loaded_through // .) as $into
  | ("COPY " + ($into.schema | id) + "." + ($into.name | id)
     + (if (.columns | length) > 0 then " (" + ([.columns[] | id] | join(", ")) + ")" else "" end) + " FROM STDIN WITH (ENCODING '"'@ENCODING@'"')") as $copy
  | "copy_table " + ($copy | @sh) + ([.chunks[].name | " " + @sh] | join(""))' "$WORK/inventory.json" >"$WORK/copy.sh"
. "$WORK/copy.sh"

# 7. Indexes, constraints, triggers. Statistics are no data: a table that cannot be analysed is none lost.
pg_restore --exit-on-error --section=post-data -d "$LOADING" "$WORK/schema.dump"
export PGOPTIONS="$WRITING"
psql -X -q -d "$LOADING" -c ANALYZE || true

# 8. The name, and owner, rights and settings of the database, in one transaction.
{
  echo 'ALTER DATABASE :"loading" RENAME TO :"target";'
  jq -r .sql.properties "$WORK/inventory.json"
} >"$WORK/properties.sql"
psql -X -q -v ON_ERROR_STOP=1 --single-transaction -v loading="$LOADING" -v target="$TARGET" -d postgres -f "$WORK/properties.sql"

# 9. What should be there now: rows per table; hash partitions on an enum have them together.
jq -r '.tables[] | "\(.rows)\t\(.schema).\(.name)"' "$WORK/inventory.json"
"##;
