// Makes a change with openapi-fetch and the types that openapi-typescript generated. Compiled by tests/openapi/check.py
// with every strict option, then run.
import createClient from "openapi-fetch";
import type { components, paths } from "./postern.js";

const [address, token] = process.argv.slice(2);
const client = createClient<paths>({ baseUrl: address ?? "", headers: { Authorization: `Bearer ${token}` } });
const change: components["schemas"]["Change"] = {
  configuration: "Kiosk ESP",
  add: [{ all: "users", filter: { name: "Corporate Windows", mode: "include" } }],
  ticket: "RITM0020002",
};

const planned = await client.POST("/v1/plan", { body: change });
const permitted: boolean | undefined = planned.data?.permission.permitted;
if (permitted === undefined) throw new Error(JSON.stringify(planned.error));

const group: components["schemas"]["Change"] = { ...change, add: [{ group: "Finance Laptops" }] };
const done = await client.POST("/v1/assignments", {
  params: { header: { "Idempotency-Key": "typescript-1", Prefer: "wait=20" } },
  body: group,
});
if (done.error) throw new Error(`${done.error.code}: ${done.error.detail}`);
const state: "succeeded" | string = done.data.state;
if (state !== "succeeded" || done.data.difference?.added[0]?.name !== "Finance Laptops") throw new Error(state);

const found = await client.GET("/v1/operations/{id}", { params: { path: { id: done.data.id } } });
if (found.data?.id !== done.data.id) throw new Error("the operation is not found again");

const refused = await client.GET("/v1/operations/{id}", { params: { path: { id: "op_00000000000000000000000000" } } });
const code: components["schemas"]["ProblemCode"] | undefined = refused.error?.code;
if (code !== "unknown-operation") throw new Error(String(code));
