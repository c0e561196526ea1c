// Node's own HTTP server on its default address, the dual-stack wildcard. Usage: http_server.js PORT [UPSTREAM-URL]
'use strict';
const http = require('http');
const os = require('os');
const [port, upstream] = process.argv.slice(2);

function answer(request, response, extra) {
  const { remoteAddress, remotePort, localAddress, localPort } = request.socket;
  response.end(`host=${os.hostname()} pid=${process.pid} peer=${remoteAddress}:${remotePort} ` +
    `own=${localAddress}:${localPort}${extra}\n`);
}

http.createServer((request, response) => {
  if (!upstream) {
    answer(request, response, '');
    return;
  }
  http.get(upstream, (from) => {
    let body = '';
    from.on('data', (chunk) => { body += chunk; });
    from.on('end', () => answer(request, response, ` upstream=<${body.trim()}>`));
  }).on('error', (error) => {
    response.statusCode = 502;
    response.end(`${error.message}\n`);
  });
}).listen(process.env.LISTEN_FDS === '1' ? { fd: 3 } : Number(port)); // sd_listen_fds(3)
