/*
 * Scripted REST resource, POST: receives the end of an operation from Postern and writes it to the record's work notes. ES5.
 *
 * System property x_postern.secret (type password2): the whole signing secret, including whsec_. The table u_postern_message, with
 * a unique index on u_message_id, remembers the messages already received. `Supported request formats` must include
 * application/json and application/cloudevents+json, which is the content type of the message.
 */
(function process(/*RESTAPIRequest*/ request, /*RESTAPIResponse*/ response) {
  function answer(status, text) {
    response.setStatus(status);
    response.setBody({ result: text });
  }

  /* Compares two strings in constant time. */
  function same(one, other) {
    var differ = one.length ^ other.length;
    for (var i = 0; i < one.length; i++) {
      differ |= one.charCodeAt(i) ^ other.charCodeAt(i % (other.length || 1));
    }
    return differ === 0;
  }

  function verified(id, time, signatures, body) {
    var age = Math.abs(new Date().getTime() / 1000 - Number(time));
    if (!id || !time || !signatures || !(age <= 300)) {
      return false;
    }
    // generateMac takes the key in base64, which is the part after whsec_.
    var key = gs.getProperty('x_postern.secret').replace('whsec_', '');
    var expected = 'v1,' + new CertificateEncryption().generateMac(key, 'HmacSHA256', id + '.' + time + '.' + body);
    var given = signatures.split(' ');
    var fits = false;
    for (var i = 0; i < given.length; i++) {
      fits = same(expected, given[i]) || fits;
    }
    return fits;
  }

  var id = request.getHeader('webhook-id');
  // The text exactly as received: parsed and serialised again it would differ, and the signature would not match.
  var body = request.body.dataString;
  if (!verified(id, request.getHeader('webhook-timestamp'), request.getHeader('webhook-signature'), body)) {
    return answer(401, 'The signature does not fit.');
  }

  var seen = new GlideRecord('u_postern_message');
  if (seen.get('u_message_id', id)) {
    return answer(200, 'Known already.');
  }

  var data = JSON.parse(body).data;
  var context = data.context || {};
  // Only records of these tables are changed, whatever a message says.
  var tables = ['sc_req_item', 'sc_task', 'change_request', 'incident'];
  var record = tables.indexOf(context.table) < 0 ? null : new GlideRecord(context.table);
  if (!record || !record.get(context.sys_id)) {
    // It will not be found later either: 410 tells Postern to stop retrying.
    return answer(410, 'There is no such record.');
  }

  var operation = data.operation;
  var text = 'Postern ' + operation.id + ' ' + operation.state + '.';
  if (operation.summary) {
    text += '\n' + operation.summary;
  }
  if (operation.problem) {
    text += '\n' + operation.problem.detail;
  }
  record.work_notes = text + '\nTrace ' + operation.trace_id;
  record.update();

  seen.initialize();
  seen.setValue('u_message_id', id);
  seen.insert();
  answer(200, 'Written.');
})(request, response);
