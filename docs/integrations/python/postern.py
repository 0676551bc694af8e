r"""Changes assignments through Postern, and verifies its callbacks. Python 3.9 or newer, standard library.

    POSTERN_URL=https://postern.contoso.com TOKEN_URL=https://login.microsoftonline.com/TENANT/oauth2/v2.0/token \
    CLIENT_ID=... CLIENT_SECRET=... SCOPE=api://API/.default \
    python postern.py RITM0010023 "Sales ESP" "Sales Laptops"

With an access token in TOKEN, only POSTERN_URL is needed besides.
A fourth argument tells several changes of one ticket apart, and a repeat of a failed change from the first attempt: 2.
"""

import http.client
import json
import os
import sys
import time
import urllib.error
import urllib.parse
import urllib.request


class Refused(Exception):
    """A problem from Postern, as text for a ticket."""

    def __init__(self, problem):
        super().__init__(problem.get("detail") or problem.get("title", "no details"))
        self.problem = problem


def call(method, url, headers, body=None):
    """Returns status, headers and JSON of a response, whatever its status."""
    request = urllib.request.Request(url, body, headers, method=method)
    try:
        answer = urllib.request.urlopen(request, timeout=30)
    except urllib.error.HTTPError as error:
        answer = error
    with answer:
        text = answer.read()
        try:
            return answer.status, answer.headers, json.loads(text or b"{}")
        except ValueError:
            return answer.status, answer.headers, {"detail": f"an answer {answer.status} that is no JSON"}


def token(environment):
    """Gets an access token with client credentials. Reuse it until shortly before it expires."""
    form = {
        "grant_type": "client_credentials",
        "client_id": environment["CLIENT_ID"],
        "client_secret": environment["CLIENT_SECRET"],
        "scope": environment["SCOPE"],
    }
    # Entra derives the audience from the scope; issuers that follow RFC 8707 need it named.
    if "RESOURCE" in environment:
        form["resource"] = environment["RESOURCE"]
    headers = {"content-type": "application/x-www-form-urlencoded"}
    status, _, body = call("POST", environment["TOKEN_URL"], headers, urllib.parse.urlencode(form).encode())
    if status != 200:
        raise Refused({"detail": f"no token: {body.get('error_description') or body.get('error') or status}"})
    return body["access_token"]


def key(ticket, *suffixes):
    """The idempotency key of a change: its ticket, a word if the ticket has several, a number if it is requested once more."""
    return "-".join([ticket, *suffixes])


def again(status, answer):
    """Whether the same request may succeed later. A problem with an operation in it is final: its key is used up."""
    return (status in (408, 429) or status >= 500) and answer.get("retryable", True) and "operation" not in answer


def change(url, access, body, idempotency_key, patience=300):
    """Requests a change, waits for its end and returns the operation. With the same key, a second call does nothing more."""
    headers = {
        "authorization": f"Bearer {access}",
        "content-type": "application/json",
        "idempotency-key": idempotency_key,
        "prefer": "wait=20",
    }
    until, growing = time.monotonic() + patience, 2
    method, place, sent = "POST", "/v1/assignments", json.dumps(body).encode()
    while True:
        try:
            status, answered, answer = call(method, url + place, headers, sent)
        except (OSError, http.client.HTTPException) as error:
            # It is unknown whether the request arrived. The key makes it safe to retry.
            status, answered, answer = 503, {}, {"detail": f"Postern cannot be reached: {error}"}
        if status == 200 and answer["state"] in ("succeeded", "failed", "cancelled"):
            if answer["state"] != "succeeded":
                raise Refused(answer.get("problem") or {"detail": f"{answer['id']} is {answer['state']}"})
            return answer
        if status in (200, 202):
            method, place, sent = "GET", f"/v1/operations/{answer['id']}", None
        elif not again(status, answer):
            raise Refused(answer)
        wanted = answered.get("retry-after") or ""
        pause, growing = int(wanted) if wanted.isdigit() else growing, min(2 * growing, 30)
        if time.monotonic() + pause > until:
            raise Refused({"detail": answer.get("detail") or f"{answer['id']} has not ended yet; look again later"})
        time.sleep(pause)


def callback(secret, headers, body):
    """Verifies a callback with the library `standardwebhooks` and returns its data; raises if it is not from Postern.

    `body` is the exact text as received. Keep each `webhook-id` and ignore duplicates.
    """
    from standardwebhooks import Webhook

    return Webhook(secret).verify(body, headers)["data"]


if __name__ == "__main__":
    if len(sys.argv) not in (4, 5):
        sys.exit(__doc__)
    needed = ["POSTERN_URL"]
    if not os.environ.get("TOKEN"):
        needed += ["TOKEN_URL", "CLIENT_ID", "CLIENT_SECRET", "SCOPE"]
    missing = [name for name in needed if not os.environ.get(name)]
    if missing:
        sys.exit(f"not set: {', '.join(missing)}\n\n{__doc__}")
    ticket, configuration, group, *suffix = sys.argv[1:]
    wanted = {"configuration": configuration, "add": [{"group": group}], "ticket": ticket}
    try:
        access = os.environ.get("TOKEN") or token(os.environ)
        operation = change(os.environ["POSTERN_URL"], access, wanted, key(ticket, *suffix))
        print(f"{operation['id']} {operation['state']}: {operation['summary']}")
    except Refused as refused:
        sys.exit(str(refused))
