// Changes assignments through Postern, and verifies its callbacks. Node.js 20 or newer, with its built-in fetch.
import { Webhook } from "standardwebhooks";

/** Some of the fields of an operation. */
export interface Operation {
  id: string;
  state: "awaiting_approval" | "queued" | "running" | "succeeded" | "failed" | "cancelled";
  summary?: string | null;
  problem?: Problem | null;
}

/** A problem document (RFC 9457): why a request failed. */
export interface Problem {
  code?: string;
  detail?: string;
  errors?: { pointer: string; detail: string }[];
  retryable?: boolean;
  operation?: { id: string; href: string };
  trace_id?: string;
}

export interface Change {
  configuration: string;
  add?: { group: string }[];
  remove?: { group: string }[];
  ticket: string;
  callback?: { url?: string; context?: unknown };
}

/** A problem from Postern, as text for a ticket. */
export class Refused extends Error {
  constructor(readonly problem: Problem) {
    super(problem.detail ?? "no details");
  }
}

/** Gets an access token with client credentials. Reuse it until shortly before it expires. */
export async function token(url: string, form: Record<string, string>): Promise<string> {
  const body = new URLSearchParams({ grant_type: "client_credentials", ...form });
  const answer = await fetch(url, { method: "POST", body, signal: AbortSignal.timeout(30_000) });
  const got = (await answer.json()) as { access_token?: string; error_description?: string; error?: string };
  if (!got.access_token) throw new Refused({ detail: `no token: ${got.error_description ?? got.error ?? answer.status}` });
  return got.access_token;
}

/** The idempotency key of a change: its ticket, a word if the ticket has several, a number if it is requested once more. */
export function keyOf(ticket: string, ...suffixes: string[]): string {
  return [ticket, ...suffixes].join("-");
}

/** Whether the same request may succeed later. A problem with an operation in it is final: its key is used up. */
export function again(status: number, { retryable, operation }: Problem): boolean {
  return (status === 408 || status === 429 || status >= 500) && retryable !== false && !operation;
}

/** Requests a change and waits for its end. With the same key, a second call does nothing more. */
export async function change(url: string, access: string, wanted: Change, key: string, patience = 300): Promise<Operation> {
  const until = Date.now() + patience * 1_000;
  const sent = { "content-type": "application/json", "idempotency-key": key, prefer: "wait=20" };
  const headers = { authorization: `Bearer ${access}`, ...sent };
  let growing = 2;
  let place = "/v1/assignments";
  let init: RequestInit = { method: "POST", headers, body: JSON.stringify(wanted) };
  for (;;) {
    const { status, after, body } = await call(url + place, init);
    const operation = body as Operation;
    if (status === 200 && ["succeeded", "failed", "cancelled"].includes(operation.state)) {
      if (operation.state === "succeeded") return operation;
      throw new Refused(operation.problem ?? { detail: `${operation.id} is ${operation.state}` });
    }
    if (status === 200 || status === 202) {
      place = `/v1/operations/${operation.id}`;
      init = { method: "GET", headers };
    } else if (!again(status, body as Problem)) {
      throw new Refused(body as Problem);
    }
    const pause = after || growing;
    growing = Math.min(2 * growing, 30);
    if (Date.now() + pause * 1_000 > until) {
      throw new Refused({ detail: (body as Problem).detail ?? `${operation.id} has not ended yet; look again later` });
    }
    await new Promise((resolve) => setTimeout(resolve, pause * 1_000));
  }
}

async function call(url: string, init: RequestInit): Promise<{ status: number; after: number; body: unknown }> {
  let answer: Response;
  let text: string;
  try {
    answer = await fetch(url, { ...init, signal: AbortSignal.timeout(30_000) });
    text = await answer.text();
  } catch (error) {
    // It is unknown whether the request arrived. The key makes it safe to retry.
    return { status: 503, after: 0, body: { detail: `Postern cannot be reached: ${String(error)}` } };
  }
  const after = Number(answer.headers.get("retry-after") ?? 0);
  try {
    return { status: answer.status, after, body: JSON.parse(text) as unknown };
  } catch {
    return { status: answer.status, after, body: { detail: `an answer ${answer.status} that is no JSON` } };
  }
}

/** Verifies a callback and returns its data. `body` is the exact text as received; keep each `webhook-id` and ignore duplicates. */
export function callback(secret: string, headers: Record<string, string>, body: string): { operation: Operation; context: unknown } {
  const event = new Webhook(secret).verify(body, headers) as { data: { operation: Operation; context: unknown } };
  return event.data;
}
