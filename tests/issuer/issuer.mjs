// An issuer of access tokens by RFC 9068, based on a certified implementation that shares no code with the gateway.
//
//   node issuer.mjs PORT KEY-ID
//
// Signs with a new key of that id, prints its URL on the first line, and serves until it is killed.
import { generateKeyPairSync } from 'node:crypto';
import { createServer } from 'node:http';
import Provider from 'oidc-provider';

const [port, kid] = process.argv.slice(2);
const { privateKey } = generateKeyPairSync('rsa', { modulusLength: 2048 });
const key = { ...privateKey.export({ format: 'jwk' }), kid, alg: 'RS256', use: 'sig' };

const client = (client_id) => ({
  client_id,
  client_secret: 'issuer-client-secret',
  grant_types: ['client_credentials'],
  redirect_uris: [],
  response_types: [],
});

const server = createServer();
server.listen(Number(port), '127.0.0.1', () => {
  const issuer = `http://127.0.0.1:${server.address().port}`;
  const provider = new Provider(issuer, {
    clients: [client('hr'), client('stranger')],
    jwks: { keys: [key] },
    scopes: ['Assignments.Change'],
    features: {
      clientCredentials: { enabled: true },
      devInteractions: { enabled: false },
      resourceIndicators: {
        enabled: true,
        getResourceServerInfo: (_context, resource) => ({
          scope: 'Assignments.Change',
          audience: resource,
          accessTokenFormat: 'jwt',
          jwt: { sign: { alg: 'RS256' } },
        }),
      },
    },
  });
  server.on('request', provider.callback());
  console.log(issuer);
});
