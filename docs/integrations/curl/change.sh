#!/bin/sh
# Requests a change and waits for its end, about five minutes at most. URL and TOKEN come from the environment; only curl is
# needed, of any version. Exit code 0: succeeded. 1: refused, failed or cancelled. 2: called the wrong way. 75: not ended yet, or
# no response; run the same command again to go on waiting.
#
#   URL=http://127.0.0.1:8080 TOKEN=$(postern token --caller servicenow) ./change.sh RITM0010023 "Sales ESP" "Sales Laptops"
set -eu
if [ $# -lt 3 ] || [ $# -gt 4 ] || [ -z "${URL:-}" ] || [ -z "${TOKEN:-}" ]; then
  echo "usage: URL=... TOKEN=... $0 TICKET CONFIGURATION GROUP [SUFFIX]" >&2
  echo "SUFFIX tells several changes of one ticket apart, and a repeat of a failed change from the first attempt." >&2
  exit 2
fi
ticket=$1 configuration=$2 group=$3
# A retry with the same key finds the same operation and waits for its end.
key=$ticket${4:+-$4}
until=$(($(date +%s) + 300))
body=$(mktemp)
head=$(mktemp)
trap 'rm -f "$body" "$head"' EXIT

# Text inside a JSON string.
escaped() { printf %s "$1" | sed 's/[\\"]/\\&/g'; }

# Prints the status.
ask() {
  curl --silent --show-error --max-time 40 --output "$body" --dump-header "$head" --write-out '%{http_code}' "$URL/v1/assignments" \
    --header "Authorization: Bearer $TOKEN" --header "Idempotency-Key: $key" --header "Prefer: wait=25" \
    --header "Content-Type: application/json" --data "{\"configuration\": \"$(escaped "$configuration")\",
      \"add\": [{\"group\": \"$(escaped "$group")\"}], \"ticket\": \"$(escaped "$ticket")\"}"
}

growing=2
while :; do
  : >"$body"
  : >"$head"
  code=0
  status=$(ask) || code=$?
  case $code in
    0) ;;
    # curl does not know an option, or cannot use the URL.
    1 | 2 | 3 | 4) exit 2 ;;
    # It is unknown whether the request arrived.
    *) status=000 ;;
  esac
  case $status in
    200)
      cat "$body"
      # The operation has ended, but may have been cancelled.
      if grep -q '"state":"succeeded"' "$body"; then exit; fi
      break
      ;;
    # A problem with an operation in it is final: a retry with the same key returns the same problem.
    408 | 429 | 5*) if grep -q -e '"operation":' -e '"retryable":false' "$body"; then break; fi ;;
    000 | 202) ;;
    *) break ;;
  esac
  pause=$(sed -n 's/^[Rr]etry-[Aa]fter: *\([0-9][0-9]*\).*/\1/p' "$head" | tail -n 1)
  if [ -z "$pause" ]; then
    pause=$growing
    growing=$((growing < 15 ? growing * 2 : 30))
  fi
  if [ $(($(date +%s) + pause)) -gt "$until" ]; then
    cat "$body"
    echo "$ticket: no end is known yet; run this again to go on waiting" >&2
    exit 75
  fi
  sleep "$pause"
done
if [ "$status" != 200 ]; then cat "$body"; fi
if [ "$status" = 200 ] || grep -q '"operation":' "$body"; then
  echo "the key $key is used up by this operation; to request the change once more, add a suffix, for example 2" >&2
fi
exit 1
