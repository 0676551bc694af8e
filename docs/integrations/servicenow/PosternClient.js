/*
 * Script Include: requests changes from Postern on behalf of a record, and writes the result to its work notes.
 * ES5. Client callable: no.
 *
 * System properties: x_postern.url (https://postern.contoso.com), x_postern.oauth_profile (sys_id of the OAuth Entity Profile
 * whose grant type is Client Credentials), x_postern.callback_url (this instance's Scripted REST resource; without it, no
 * callback is requested, and a flow asks with look()), x_postern.approval_profile (another OAuth profile, only for decide()).
 */
var PosternClient = Class.create();
PosternClient.prototype = {
  initialize: function () {
    this.url = gs.getProperty('x_postern.url');
    this.profile = gs.getProperty('x_postern.oauth_profile');
    this.callbackUrl = gs.getProperty('x_postern.callback_url');
    this.approvalProfile = gs.getProperty('x_postern.approval_profile');
  },

  /*
   * Requests a change for a record: {configuration: 'Sales ESP', add: [{group: 'Sales Laptops'}]}. Returns
   * {status, operation} once Postern has it on disk, which takes well under a second; the end is reported by callback, if
   * there is a property for it. With `again`, the same call may succeed after `retryAfter` seconds.
   * If a record requests several changes, give each a word of its own: 'kiosks'. To request a change once more after its
   * operation has failed or was cancelled, give the number of the attempt, from 2 on.
   */
  request: function (record, change, word, attempt) {
    var sysId = String(record.getUniqueValue());
    change.ticket = String(record.getValue('number'));
    if (this.callbackUrl) {
      change.callback = { url: this.callbackUrl, context: { table: String(record.getTableName()), sys_id: sysId } };
    }
    // The record's sys_id: a flow that is run again gets the same operation and changes nothing twice.
    var key = sysId + (word ? '-' + word : '') + (attempt ? '-' + attempt : '');
    var answer = this._call('post', '/v1/assignments', change, { 'Idempotency-Key': key });
    // A flow repeats the call while `again`: the record needs one note, not one for each attempt.
    if (!answer.again) {
      this._note(record, this._sentence(answer));
    }
    return answer;
  },

  /* Reads an operation, for instances that cannot receive callbacks: in a flow, wait `retryAfter` seconds between calls. */
  look: function (operation) {
    return this._call('get', '/v1/operations/' + encodeURIComponent(operation), null, {});
  },

  /*
   * Approves or rejects an operation that is awaiting_approval; decision is 'approve' or 'reject'. Postern accepts it only from
   * another caller than the one that requested the change, hence the profile of its own.
   */
  decide: function (operation, decision, comment) {
    var path = '/v1/operations/' + encodeURIComponent(operation) + '/' + decision;
    return this._call('post', path, { comment: comment }, {}, this.approvalProfile);
  },

  _call: function (method, path, body, headers, profile) {
    var message = new sn_ws.RESTMessageV2();
    message.setHttpMethod(method);
    message.setEndpoint(this.url + path);
    message.setAuthenticationProfile('oauth2', profile || this.profile);
    // The default is 175 s, for which a worker would be held.
    message.setHttpTimeout(10000);
    message.setRequestHeader('Accept', 'application/json');
    message.setRequestHeader('Prefer', 'respond-async');
    for (var name in headers) {
      message.setRequestHeader(name, headers[name]);
    }
    if (body) {
      message.setRequestHeader('Content-Type', 'application/json');
      message.setRequestBody(JSON.stringify(body));
    }
    try {
      var response = message.execute();
      var answer = this._parsed(response.getBody());
      var status = response.getStatusCode();
      var fine = status >= 200 && status < 300;
      return {
        status: status,
        operation: fine ? answer : null,
        problem: fine ? null : answer,
        again: !fine && this._again(status, answer),
        retryAfter: parseInt(response.getHeader('Retry-After'), 10) || 10
      };
    } catch (error) {
      // It is unknown whether the request arrived; the Idempotency-Key makes it safe to retry.
      return { status: 0, operation: null, problem: { detail: String(error) }, again: true, retryAfter: 10 };
    }
  },

  /* Whether the same request may succeed later. A problem with an operation in it is final: its key is used up. */
  _again: function (status, problem) {
    var passing = status === 0 || status === 408 || status === 429 || status >= 500;
    return passing && problem.retryable !== false && !problem.operation;
  },

  _parsed: function (text) {
    try {
      return JSON.parse(text);
    } catch (error) {
      return { detail: 'The answer is no JSON.' };
    }
  },

  _sentence: function (answer) {
    if (answer.operation) {
      return 'Postern accepted ' + answer.operation.id + ' (' + answer.operation.state + ').';
    }
    var problem = answer.problem;
    return 'Postern refused: ' + problem.detail + (problem.trace_id ? '\nTrace ' + problem.trace_id : '');
  },

  _note: function (record, text) {
    record.work_notes = text;
    record.update();
  },

  type: 'PosternClient'
};
