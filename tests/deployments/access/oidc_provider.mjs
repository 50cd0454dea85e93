// A real OpenID Connect provider (npm's oidc-provider): PORT AUDIENCE, and as JSON on its standard input the private keys.
// Clients are named ALGORITHM.GROUP, have the secret `secret`, and get tokens signed with that algorithm, of that group.
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";
import { pathToFileURL } from "node:url";

const [port, audience] = process.argv.slice(2);
const { resolve } = createRequire(join(process.cwd(), "package.json"));
const { Provider } = await import(pathToFileURL(resolve("oidc-provider")));
const clients = ["RS256", "ES256", "EdDSA", "Ed25519", "PS256"].flatMap((algorithm) =>
  ["ml-team", "ops", "nobody"].map((group) => ({
    client_id: `${algorithm}.${group}`,
    client_secret: "secret",
    grant_types: ["client_credentials"],
    redirect_uris: [],
    response_types: [],
  })),
);
const provider = new Provider(`http://127.0.0.1:${port}`, {
  clients,
  jwks: JSON.parse(readFileSync(0)),
  extraTokenClaims: (context, token) => ({ groups: [token.clientId.split(".")[1]] }),
  ttl: { ClientCredentials: 120 },
  features: {
    devInteractions: { enabled: false },
    clientCredentials: { enabled: true },
    resourceIndicators: {
      enabled: true,
      getResourceServerInfo: (context, resource, client) => ({
        scope: "predict",
        audience: resource,
        accessTokenFormat: "jwt",
        jwt: { sign: { alg: client.clientId.split(".")[0] } },
      }),
    },
  },
});
provider.listen(Number(port), "127.0.0.1", () => console.log("ready"));
