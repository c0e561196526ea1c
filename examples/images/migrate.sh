# A migration, which may be run again.
set -e
PGPASSWORD=$(cat /run/secrets/password) psql -q -v ON_ERROR_STOP=1 <<'SQL'
SET client_min_messages = warning;
CREATE TABLE IF NOT EXISTS prices (item text PRIMARY KEY, cents int NOT NULL);
INSERT INTO prices VALUES ('tea', 320), ('cake', 450) ON CONFLICT DO NOTHING;
SQL
echo migrated
