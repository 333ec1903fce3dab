#!/usr/bin/env bash
# Shows the promise on a real service: 1,000 tasks over HTTP, a large table, fast, slow and
# stalled readers at once, and the server's memory before, during and after. Then the same slow
# readers against the tutorial's bad approach and against Weir; the picture is left in demo/.
# WEIR_DEMO_ROWS (2000000), WEIR_DEMO_READERS (200), WEIR_PORT (3000), WEIR_DEMO_OTHER_PORT (the
# next one) and WEIR_DEMO_FOLDER (demo) change it.
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/environment.sh service,simulator

rows=${WEIR_DEMO_ROWS:-2000000}
readers=${WEIR_DEMO_READERS:-200}
port=${WEIR_PORT:-3000}
other=${WEIR_DEMO_OTHER_PORT:-$((port + 1))}
out=${WEIR_DEMO_FOLDER:-demo}
url=http://localhost:$port
token='Authorization: Bearer secret-user-123'
folder=$(mktemp -d)
started=()

stop() {
    for pid in "${started[@]}"; do kill "$pid" 2>/dev/null || true; done
    for pid in "${started[@]}"; do wait "$pid" 2>/dev/null || true; done
    rm -rf "$folder"
}
trap stop EXIT

say() { printf '\n== %s\n' "$*"; }
fail() { printf 'full-demo: %s\n' "$*" >&2; exit 1; }

memory() { # the server's own figures, in KiB: process (USS), and the kernel's send queues
    curl -sf "$url/metrics" -H "$token" | awk -v what="$1" '
        /^weir_process_memory_bytes\{kind="uss"\}/ { uss = $2 }
        /^weir_buffered_kernel_bytes / { kernel = $2 }
        /^weir_streams / { streams = $2 }
        END { printf "%-44s process %6.1f MiB   kernel %5.1f MiB   streams %4d\n",
              what, uss / 1048576, kernel / 1048576, streams }' | tee -a "$folder/memory.txt"
}

say "Starting the service on port $port"
service_log=$folder/service.log
python -m service --database "sqlite:///$folder/tasks.db" --port "$port" --grace 1 \
    --log-interval 2 2>"$service_log" &
started+=($!)
server=$!
for _ in $(seq 100); do
    curl -sf "$url/readyz" >/dev/null && break
    kill -0 "$server" 2>/dev/null || fail "the service did not start: $(tail -n 2 "$service_log")"
    sleep 0.1
done
grep -o 'memory=.*' "$service_log" | head -n 1 | sed 's/^memory=/Its worst case: /'

say "Creating 1,000 tasks over HTTP, one at a time"
python - "$url" <<'PYTHON'
import http.client, json, sys
connection = http.client.HTTPConnection(sys.argv[1].removeprefix("http://"))
head = {"Authorization": "Bearer secret-user-123", "Content-Type": "application/json"}
for number in range(1, 1001):
    task = {"title": f"Task {number}", "priority": number % 10 + 1}
    connection.request("POST", "/tasks", json.dumps(task), head)
    answer = connection.getresponse()
    if answer.status != 201:
        sys.exit(f"task {number}: {answer.status} {answer.read().decode()}")
    answer.read()
PYTHON
curl -sf "$url/tasks/export.csv" -H "$token" >"$folder/thousand.csv"
printf '%s lines in the export: a head and 1,000 tasks\n' "$(wc -l <"$folder/thousand.csv")"

say "Generating $rows more"
python -m service generate --rows "$rows" --database "sqlite:///$folder/tasks.db"
total=$((rows + 1000))

say "Downloading $total tasks as CSV and as NDJSON"
memory "before"
for file in export.csv stream.ndjson; do
    curl -sf "$url/tasks/$file" -H "$token" -o "$folder/$file" \
        -w "$file"': %{size_download} bytes in %{time_total} s\n'
done
memory "after two fast downloads"

say "$readers readers that stop reading, and two slow downloads, beside a fast one"
python -m simulator hold "$url/tasks/export.csv" --readers "$readers" --seconds 120 \
    -H "$token" >"$folder/held.txt" 2>"$folder/held.err" &
started+=($!)
for file in export.csv stream.ndjson; do
    curl -sf --limit-rate 1M "$url/tasks/$file" -H "$token" -o "$folder/slow-$file" &
    started+=($!)
done
for _ in $(seq 600); do
    [ -s "$folder/held.txt" ] && break
    sleep 0.1
done
[ -s "$folder/held.txt" ] || fail "the readers did not get ready: $(cat "$folder/held.err")"
cat "$folder/held.txt"
for second in 1 2 3; do
    sleep 2
    memory "with slow and stalled readers, look $second"
done
curl -sf "$url/tasks/export.csv" -H "$token" -o "$folder/beside.csv" \
    -w 'a fast download beside them: %{size_download} bytes in %{time_total} s\n'
for pid in "${started[@]:1}"; do kill "$pid" 2>/dev/null || true; done
for _ in $(seq 100); do
    curl -sf "$url/metrics" -H "$token" | grep -q '^weir_streams 0' && break
    sleep 0.1
done
memory "after all have gone"

say "The same slow readers, judged: the tutorial's bad approach, then Weir"
mkdir -p "$out"
rm -f "$out"/reads-it-all-first.* "$out"/weir.*
export="tasks/export.csv?limit=100000"
size=$(curl -sf "$url/$export" -H "$token" | wc -c)
judge() { # a record's name, the exit code that it must have, and what else `run` takes
    local name=$1 expected=$2 code=0
    shift 2
    python -m simulator run "$@" --readers "$readers" --quick --record "$out/$name.ndjson" \
        >"$out/$name.txt" || code=$?
    [ "$code" = "$expected" ] && return
    cat "$out/$name.txt"
    fail "$name: exit code $code, and not $expected as expected"
}
printf 'reads-it-all-first: a server that reads a file of %s bytes, then sends it\n' "$size"
judge reads-it-all-first 1 "http://127.0.0.1:$other/?bytes=$size" \
    --command "python -m simulator.specimens reads-it-all-first --port $other"
printf 'weir: as many bytes out of its database\n'
judge weir 0 "http://127.0.0.1:$other/$export" -H "$token" --no-self-test \
    --command "python -m service --database sqlite:///$folder/tasks.db --port $other"
python -m simulator report "$out"/reads-it-all-first.ndjson "$out"/weir.ndjson --format html \
    --output "$out/report.html" --png "$out/memory.png" || true
python -m simulator report "$out"/reads-it-all-first.ndjson "$out"/weir.ndjson \
    --format text --brief || true
printf 'The picture: %s and %s\n' "$out/memory.png" "$out/report.html"

say "What was seen"
python - "$folder" "$total" "$readers" <<'PYTHON'
import csv, json, re, sys
from pathlib import Path
folder, total, readers = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
with (folder / "export.csv").open(newline="", encoding="utf-8") as file:
    rows = sum(1 for _ in csv.reader(file)) - 1
with (folder / "stream.ndjson").open(encoding="utf-8") as file:
    lines = sum(1 for line in file if json.loads(line)["id"])
same = (folder / "beside.csv").read_bytes() == (folder / "export.csv").read_bytes()
print(f"CSV: {rows:,} tasks; NDJSON: {lines:,} tasks; {total:,} were stored.")
print(f"The download beside the slow readers is the same file: {'yes' if same else 'NO'}.")
looks = [
    [float(number) for number in re.findall(r"([\d.]+) MiB", line)]
    for line in (folder / "memory.txt").read_text().splitlines()
]
size = (folder / "export.csv").stat().st_size / 2**20
fast, worst = sum(looks[1]), max(sum(look) for look in looks[2:5])
growth, promised = worst - fast, (readers + 2) * 64 / 1024 + 16
print(f"{readers} readers and two slow downloads, of a file of {size:,.0f} MiB each, cost the "
      f"server {growth:+.1f} MiB in all, process and kernel.")
print(f"At most {promised:.1f} MiB are promised: 64 KiB for each, and 16 MiB read ahead.")
spread = max(sum(look) for look in looks[2:5]) - min(sum(look) for look in looks[2:5])
print(f"While they waited, memory moved by {spread:.1f} MiB.")
good = rows == lines == total and same and growth <= promised
print("The tutorial's approach is unbounded, Weir is bounded: the exit codes were 1 and 0.")
print("Memory stayed constant." if good else "THE PROMISE DID NOT HOLD.")
sys.exit(0 if good else 1)
PYTHON
