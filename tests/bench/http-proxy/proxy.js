// A random split with Node's http-proxy, as one of the replaced deployments had it, but with keep-alive to the servers.
// node proxy.js PORT SHARE CANARY PRODUCTION...
'use strict';
const http = require('http');
const httpProxy = require('http-proxy');

const [port, share, canary, ...production] = process.argv.slice(2);
const agent = new http.Agent({ keepAlive: true, maxSockets: 256 });
const proxy = httpProxy.createProxyServer({ agent });
proxy.on('error', (error, request, response) => response.writeHead(502).end());

http.createServer((request, response) => {
  const target = Math.random() * 100 < Number(share)
    ? canary
    : production[Math.floor(Math.random() * production.length)];
  proxy.web(request, response, { target });
}).listen(Number(port), '127.0.0.1');
