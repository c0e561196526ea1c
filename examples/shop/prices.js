// The shop's prices.
'use strict';
require('http').createServer((request, response) => {
  response.end('Tea is 3.20 today.\n');
}).listen(9000);
