"""Signs a message by the published library: secret, id, seconds since 1970 and body; prints the header's value."""

import datetime
import sys

from standardwebhooks import Webhook

secret, message_id, seconds, body = sys.argv[1:]
moment = datetime.datetime.fromtimestamp(int(seconds), tz=datetime.timezone.utc)
print(Webhook(secret).sign(msg_id=message_id, timestamp=moment, data=body))
