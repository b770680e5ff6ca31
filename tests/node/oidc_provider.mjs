// A real OIDC provider on a free port of loopback. Its one client may fetch tokens for itself:
// RS256, for the audience `gateway`, with the role that it is started with.
//
// usage: node oidc_provider.mjs NODE_MODULES ROLE

import { generateKeyPairSync } from "node:crypto";
import { createServer } from "node:http";
import { join } from "node:path";
import { pathToFileURL } from "node:url";

const [modules, role] = process.argv.slice(2);
const library = join(modules, "oidc-provider", "lib", "index.js");
const { default: Provider } = await import(pathToFileURL(library));

const { privateKey } = generateKeyPairSync("rsa", { modulusLength: 2048 });
const key = { ...privateKey.export({ format: "jwk" }), kid: "signing", use: "sig", alg: "RS256" };

const server = createServer();
server.listen(0, "127.0.0.1", () => {
  const issuer = `http://127.0.0.1:${server.address().port}`;
  const provider = new Provider(issuer, {
    clients: [
      {
        client_id: "machine",
        client_secret: "secret-of-the-machine",
        grant_types: ["client_credentials"],
        redirect_uris: [],
        response_types: [],
      },
    ],
    cookies: { keys: ["unused"] },
    jwks: { keys: [key] },
    extraTokenClaims: () => ({ roles: [role] }),
    features: {
      clientCredentials: { enabled: true },
      devInteractions: { enabled: false },
      resourceIndicators: {
        enabled: true,
        defaultResource: () => "urn:gateway",
        getResourceServerInfo: () => ({
          scope: "",
          audience: "gateway",
          accessTokenFormat: "jwt",
          accessTokenTTL: 600,
          jwt: { sign: { alg: "RS256" } },
        }),
      },
    },
  });
  server.on("request", provider.callback());
  console.log(`issuer ${issuer}`);
});
