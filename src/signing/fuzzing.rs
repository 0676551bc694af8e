//! What must hold for any signature header and any message, in every vendor's scheme.

use super::{Encoding, Key, KeyForm, Message, Scheme, moment, pieces, presets::PRESETS};

/// The input is header, id, timestamp and body, separated by line breaks. In every scheme, what the key signs verifies, a
/// header without that signature does not, and the signature fits no other body.
pub(crate) fn signatures(input: &[u8]) {
    let mut parts = input.splitn(4, |byte| *byte == b'\n');
    let mut line = || std::str::from_utf8(parts.next().unwrap_or_default()).unwrap_or_default();
    let (header, id, timestamp) = (line(), line(), line());
    let message = Message { id, timestamp, body: parts.next().unwrap_or_default() };
    if let Some(moment) = moment(timestamp) {
        assert_eq!(super::moment(&moment.to_string()), Some(moment));
    }
    drop(pieces(header));
    for preset in PRESETS {
        let scheme = preset.scheme();
        let secret = match scheme.keys {
            KeyForm::Plain => "a secret of tests only",
            KeyForm::Standard => "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
        };
        let key = Key::read(secret, scheme.keys, scheme.hash);
        assert!(key.is_ok(), "{}", preset.name);
        if let Ok(key) = key {
            judged(&scheme, &key, message, header);
        }
    }
}

fn judged(scheme: &Scheme, key: &Key, message: Message<'_>, header: &str) {
    let written = scheme.sign(key, message).unwrap_or_default();
    let keys = std::slice::from_ref(key);
    assert!(scheme.verify(keys, message, &written), "its own signature does not fit");
    // Hexadecimal digits may have either case.
    let holds = match scheme.encoding {
        Encoding::Hex => header.to_ascii_lowercase().contains(&written.to_ascii_lowercase()),
        Encoding::Base64 => header.contains(&written),
    };
    assert!(holds || !scheme.verify(keys, message, header), "a header without the signature fits");
    let longer = [message.body, b"x"].concat();
    assert!(!scheme.verify(keys, Message { body: &longer, ..message }, &written), "it fits another body");
}
