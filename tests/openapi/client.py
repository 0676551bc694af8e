"""A change made by the client that openapi-python-client made of the document; called by tests/openapi/check.py."""

import sys

from postern_client import AuthenticatedClient
from postern_client.api.operations import list_operations
from postern_client.api.changes import plan_change, submit_change
from postern_client.models import Change, Operation, OperationPage, Plan, Problem, Target

address, token = sys.argv[1:]
client = AuthenticatedClient(base_url=address, token=token)
change = Change(configuration="Kiosk ESP", add=[Target(group="Finance Laptops")], ticket="RITM0020001")

plan = plan_change.sync(client=client, body=change)
assert isinstance(plan, Plan) and plan.difference.added[0].name == "Finance Laptops", plan
done = submit_change.sync(client=client, body=change, idempotency_key="python-1", prefer="wait=20")
assert isinstance(done, Operation) and done.state == "succeeded" and done.effect == "changed", done
again = submit_change.sync_detailed(client=client, body=change, idempotency_key="python-1")
assert again.headers["idempotency-replayed"] == "true" and again.parsed.id == done.id, again
refused = submit_change.sync(client=client, body=Change(configuration="Nothing", add=[Target(group="Finance Laptops")]))
assert isinstance(refused, Problem) and refused.code == "unknown-configuration", refused
page = list_operations.sync(client=client, ticket="RITM0020001")
assert isinstance(page, OperationPage) and [it.id for it in page.operations] == [done.id], page
