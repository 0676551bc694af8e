// A test double of a ServiceNow instance, as far as docs/integrations/servicenow uses one: it checks that the scripts
// parse as ES5, runs them in a separate engine, makes their calls to the gateway, and stores records.
//
//   node instance.mjs FOLDER GATEWAY-SECRET TOKEN-URL
//
// Prints its URL. POST /api/postern runs callback.js; POST /run/request, /run/look and /run/decide run PosternClient; GET /records lists all.
import { spawnSync } from "node:child_process";
import { createHmac } from "node:crypto";
import { readFileSync } from "node:fs";
import { createServer } from "node:http";
import { createContext, Script } from "node:vm";
import { parse } from "acorn";

const [folder, secret, tokens] = process.argv.slice(2);
const tables = { sc_req_item: { "46d44a": { number: "RITM0010023", notes: [] }, "77b1c0": { number: "RITM0010024", notes: [] } }, u_postern_message: {} };
const properties = { "x_postern.secret": secret, "x_postern.oauth_profile": "profile-1" };

// Sends one request synchronously, as execute() does.
function exchange(order) {
  const program = `
    const { url, method, headers, body, timeout } = JSON.parse(require("fs").readFileSync(0, "utf8"));
    fetch(url, { method, headers, body, signal: AbortSignal.timeout(timeout) }).then(async (answer) =>
      console.log(JSON.stringify({ status: answer.status, headers: Object.fromEntries(answer.headers), text: await answer.text() })));`;
  const run = spawnSync(process.execPath, ["-e", program], { input: JSON.stringify(order), encoding: "utf8" });
  if (run.status !== 0) throw new Error("Connection failed");
  return JSON.parse(run.stdout);
}

class RESTMessageV2 {
  constructor() { this.headers = {}; this.timeout = 175_000; }
  setHttpMethod(method) { this.method = method.toUpperCase(); }
  setEndpoint(url) { this.url = url; }
  setHttpTimeout(timeout) { this.timeout = timeout; }
  setRequestHeader(name, value) { this.headers[name] = value; }
  setRequestBody(body) { this.body = body; }
  setAuthenticationProfile(kind, profile) {
    this.profile = `${kind} ${profile}`;
  }
  // An instance fetches the token when it sends.
  authenticate() {
    const clients = { "oauth2 profile-1": "hr", "oauth2 profile-2": "stranger" };
    const client_id = clients[this.profile];
    if (!client_id) throw new Error("Invalid authentication profile");
    const form = { grant_type: "client_credentials", client_id, client_secret: "issuer-client-secret" };
    const body = new URLSearchParams({ ...form, scope: "Assignments.Change", resource: "api://postern" }).toString();
    const headers = { "content-type": "application/x-www-form-urlencoded" };
    const { text } = exchange({ url: tokens, method: "POST", headers, body, timeout: 10_000 });
    this.headers.Authorization = `Bearer ${JSON.parse(text).access_token}`;
  }
  execute() {
    this.authenticate();
    const { status, headers, text } = exchange(this);
    return { getStatusCode: () => status, getBody: () => text, getHeader: (name) => headers[name.toLowerCase()] ?? null };
  }
}

class GlideRecord {
  constructor(table) { this.table = table; this.values = {}; }
  get(field, value) {
    const [column, wanted] = value === undefined ? ["sys_id", field] : [field, value];
    const all = Object.entries(tables[this.table] ?? {});
    const found = all.find(([id, row]) => (column === "sys_id" ? id : row[column]) === wanted);
    if (found) [this.id] = found;
    return Boolean(found);
  }
  getUniqueValue() { return this.id; }
  getTableName() { return this.table; }
  getValue(field) { return tables[this.table][this.id][field] ?? null; }
  setValue(field, value) { this.values[field] = value; }
  initialize() { this.values = {}; }
  insert() { tables[this.table][`row-${Object.keys(tables[this.table]).length}`] = { ...this.values }; }
  update() { tables[this.table][this.id].notes.push(this.work_notes); }
}

class CertificateEncryption {
  generateMac(key, algorithm, data) {
    if (algorithm !== "HmacSHA256") throw new Error(`Unknown algorithm ${algorithm}`);
    return createHmac("sha256", Buffer.from(key, "base64")).update(data, "utf8").digest("base64");
  }
}

// Prototype.js's Class, which instances provide.
const Class = { create: () => function (...given) { this.initialize(...given); } };

function run(file, more, ending = "") {
  const text = readFileSync(`${folder}/${file}`, "utf8");
  parse(text, { ecmaVersion: 5 });
  const gs = { getProperty: (name) => properties[name] ?? null };
  const doubles = { Class, gs, GlideRecord, CertificateEncryption, sn_ws: { RESTMessageV2 } };
  return new Script(text + ending, { filename: file }).runInContext(createContext({ ...doubles, ...more }));
}

const resources = {
  "/api/postern": (headers, body) => {
    const answer = { status: 200, body: {} };
    const request = { getHeader: (name) => headers[name.toLowerCase()] ?? null, body: { dataString: body } };
    const response = { setStatus: (status) => { answer.status = status; }, setBody: (it) => { answer.body = it; } };
    run("callback.js", { request, response });
    return answer;
  },
  "/run/request": (_headers, body) => {
    const { sys_id, change, word, attempt } = JSON.parse(body);
    const record = new GlideRecord("sc_req_item");
    if (!record.get(sys_id)) throw new Error("no such record");
    const call = "\nnew PosternClient().request(record, change, word, attempt);";
    return { status: 200, body: run("PosternClient.js", { record, change, word, attempt }, call) };
  },
  "/run/look": (_headers, body) => ({
    status: 200,
    body: run("PosternClient.js", { id: JSON.parse(body).id }, "\nnew PosternClient().look(id);"),
  }),
  "/run/decide": (_headers, body) => ({
    status: 200,
    body: run("PosternClient.js", JSON.parse(body), "\nnew PosternClient().decide(id, decision, comment);"),
  }),
  "/run/property": (_headers, body) => { Object.assign(properties, JSON.parse(body)); return { status: 200, body: {} }; },
  "/records": () => ({ status: 200, body: tables }),
};

const server = createServer((request, response) => {
  const pieces = [];
  request.on("data", (piece) => pieces.push(piece)).on("end", () => {
    try {
      const { status, body } = resources[request.url](request.headers, Buffer.concat(pieces).toString("utf8"));
      response.writeHead(status, { "content-type": "application/json" }).end(JSON.stringify(body));
    } catch (error) {
      response.writeHead(500).end(String(error.stack));
    }
  });
});
server.listen(0, "127.0.0.1", () => {
  properties["x_postern.callback_url"] = `http://127.0.0.1:${server.address().port}/api/postern`;
  console.log(`http://127.0.0.1:${server.address().port}`);
});
