#!/bin/sh
# Requests a change and waits for its end, about five minutes at most. URL and TOKEN come from the environment; only curl is
# needed. Exit code 0: succeeded. 1: refused, failed or cancelled. 75: not ended yet, or no response; run the same command again
# to go on waiting.
#
#   URL=http://127.0.0.1:8080 TOKEN=$(postern token --caller servicenow) ./change.sh RITM0010023 "Sales ESP" "Sales Laptops"
set -eu
ticket=$1 configuration=$2 group=$3
until=$(($(date +%s) + 300))
body=$(mktemp)
trap 'rm -f "$body"' EXIT

# The ticket is the key: a retry finds the same operation and waits for its end. Prints status and Retry-After.
ask() {
  curl --silent --show-error --max-time 40 --output "$body" --write-out '%{http_code} %header{retry-after}' "$URL/v1/assignments" \
    --header "Authorization: Bearer $TOKEN" --header "Idempotency-Key: $ticket" --header "Prefer: wait=25" \
    --json "{\"configuration\": \"$configuration\", \"add\": [{\"group\": \"$group\"}], \"ticket\": \"$ticket\"}"
}

while :; do
  : >"$body"
  # 000: it is unknown whether the request arrived.
  answer=$(ask) || answer='000 '
  status=${answer%% *} pause=${answer#* }
  case $status in
    200)
      cat "$body"
      # The operation has ended, but may have been cancelled.
      grep -q '"state":"succeeded"' "$body"
      exit
      ;;
    # A problem with an operation in it is final: a retry with the same key returns the same problem.
    5*) if grep -q -e '"operation":' -e '"retryable":false' "$body"; then break; fi ;;
    000 | 202 | 408 | 429) ;;
    *) break ;;
  esac
  case $pause in '' | *[!0-9]*) pause=5 ;; esac
  if [ $(($(date +%s) + pause)) -gt "$until" ]; then
    cat "$body"
    echo "$ticket: no end is known yet; run this again to go on waiting" >&2
    exit 75
  fi
  sleep "$pause"
done
cat "$body"
exit 1
