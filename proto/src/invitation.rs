//! Join tokens and pairing codes as text, and the proof that one has the secret without sending it.

use data_encoding::BASE64URL_NOPAD;
use ring::hmac;

use crate::codec;
use crate::limits::CONTROL_FRAME_MAX;
use crate::message::join::{INVITATION_AGENTS, Invitation};
use crate::refusal::{Class, Refusal};

/// What an invitation is for: the first word of its text, so that one is not used for the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// A node joins a cluster.
    Join,
    /// Two clusters pair.
    Pair,
}

impl Purpose {
    const fn prefix(self) -> &'static str {
        match self {
            Self::Join => "landfall-join-",
            Self::Pair => "landfall-pair-",
        }
    }

    const fn field(self) -> &'static str {
        match self {
            Self::Join => "token",
            Self::Pair => "code",
        }
    }
}

/// Bytes of the checksum at the end: a typing error passes once in four thousand million times.
const CHECKSUM: usize = 4;

/// The text for `invitation`.
pub fn to_text(purpose: Purpose, invitation: &Invitation) -> Result<String, Refusal> {
    let mut bytes =
        codec::encode(invitation).map_err(|error| Refusal::new(Class::Failed, "encoding_failed", error.to_string()))?;
    let checksum = checksum(purpose, &bytes);
    bytes.extend_from_slice(&checksum);
    Ok(format!("{}{}", purpose.prefix(), BASE64URL_NOPAD.encode(&bytes)))
}

/// The invitation in `text`. White space within it is ignored: terminals break long lines. Refusals do not repeat the
/// text, because it is a secret.
pub fn from_text(purpose: Purpose, text: &str) -> Result<Invitation, Refusal> {
    let field = purpose.field();
    let refuse = |what: &str, remedy: &str| {
        Refusal::new(Class::Usage, "invalid_value", format!("{field}: {what}")).field(field).remedy(remedy)
    };
    if text.len() > CONTROL_FRAME_MAX {
        return Err(refuse("this is far too long", "give what was printed when it was made"));
    }
    let text: String = text.chars().filter(|c| !c.is_whitespace()).collect();
    let Some(body) = text.strip_prefix(purpose.prefix()) else {
        return Err(
            match (purpose, text.starts_with(Purpose::Join.prefix()), text.starts_with(Purpose::Pair.prefix())) {
                (Purpose::Pair, true, _) => {
                    refuse("this is a join token, not a pairing code", "use it with `landfall cluster join`")
                }
                (Purpose::Join, _, true) => {
                    refuse("this is a pairing code, not a join token", "use it with `landfall peer accept`")
                }
                _ => refuse(
                    &format!("it does not begin with {}", purpose.prefix()),
                    "give the whole text as it was printed when it was made",
                ),
            },
        );
    };
    let mistyped = || refuse("it is mistyped or cut short", "copy the whole text as it was printed when it was made");
    let bytes = BASE64URL_NOPAD.decode(body.as_bytes()).map_err(|_| mistyped())?;
    let (bytes, sum) = bytes.split_last_chunk::<CHECKSUM>().ok_or_else(mistyped)?;
    if checksum(purpose, bytes) != *sum {
        return Err(mistyped());
    }
    let invitation: Invitation =
        codec::decode(bytes).map_err(|error| refuse(&error.to_string(), "make a new one with this version"))?;
    match invitation.agents.len() {
        1..=INVITATION_AGENTS => Ok(invitation),
        _ => Err(refuse("it names no agent, or too many", "make a new one")),
    }
}

fn checksum(purpose: Purpose, bytes: &[u8]) -> [u8; CHECKSUM] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(purpose.prefix().as_bytes());
    hasher.update(bytes);
    let mut sum = [0; CHECKSUM];
    hasher.finalize_xof().fill(&mut sum);
    sum
}

/// RFC 5705's label for the keying material that a proof covers.
const EXPORTER_LABEL: &[u8] = b"EXPORTER-landfall-join-1";

/// The proof, for this connection and no other, that its maker has the ticket's secret.
pub fn proof(connection: &quinn::Connection, ticket: u64, secret: &[u8; 32]) -> Result<[u8; 32], Refusal> {
    let material = exported(connection, ticket)?;
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), &material);
    let mut proof = [0; 32];
    proof.copy_from_slice(tag.as_ref());
    Ok(proof)
}

/// Whether `proof` was made on the other end of this connection with the same secret. Takes the same time for any
/// wrong proof.
pub fn is_proven(
    connection: &quinn::Connection,
    ticket: u64,
    secret: &[u8; 32],
    proof: &[u8; 32],
) -> Result<bool, Refusal> {
    let material = exported(connection, ticket)?;
    Ok(hmac::verify(&hmac::Key::new(hmac::HMAC_SHA256, secret), &material, proof).is_ok())
}

fn exported(connection: &quinn::Connection, ticket: u64) -> Result<[u8; 32], Refusal> {
    let mut material = [0; 32];
    connection
        .export_keying_material(&mut material, EXPORTER_LABEL, &ticket.to_be_bytes())
        .map_err(|_| Refusal::new(Class::Failed, "exporter_failed", "the connection gives no keying material"))?;
    Ok(material)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::{Fingerprint, UnixMillis};

    fn invitation() -> Invitation {
        Invitation {
            ticket: 77,
            secret: [9; 32],
            ca: Fingerprint([3; 32]),
            cap: "r-broker-cap.contoso.com".parse().unwrap(),
            agents: vec!["10.0.0.11:7443".parse().unwrap(), "[fd00::2]:7443".parse().unwrap()],
            expires_at: UnixMillis(1_800_000_000_000),
        }
    }

    #[test]
    fn text_gives_back_the_invitation_even_over_broken_lines() {
        let text = to_text(Purpose::Join, &invitation()).unwrap();
        assert!(text.starts_with("landfall-join-"), "{text}");
        assert!(text.len() < 240, "{} characters", text.len());
        let broken = format!("  {}\n   {}\n", &text[..70], &text[70..]);
        assert_eq!(from_text(Purpose::Join, &broken).unwrap(), invitation());
    }

    #[test]
    fn every_single_wrong_character_is_noticed_and_the_secret_is_not_repeated() {
        let text = to_text(Purpose::Join, &invitation()).unwrap();
        for at in Purpose::Join.prefix().len()..text.len() {
            let mut wrong = text.clone().into_bytes();
            wrong[at] = if wrong[at] == b'A' { b'B' } else { b'A' };
            let wrong = String::from_utf8(wrong).unwrap();
            let refusal = from_text(Purpose::Join, &wrong).unwrap_err();
            assert_eq!((refusal.class, refusal.field.as_deref()), (Class::Usage, Some("token")), "at {at}");
            assert!(!refusal.to_string().contains(&wrong[14..]), "{refusal}");
        }
        assert!(from_text(Purpose::Join, &text[..text.len() - 5]).unwrap_err().message.contains("mistyped"));
    }

    #[test]
    fn a_code_is_not_a_token() {
        let code = to_text(Purpose::Pair, &invitation()).unwrap();
        let refusal = from_text(Purpose::Join, &code).unwrap_err();
        assert!(refusal.message.contains("pairing code"), "{refusal}");
        assert!(from_text(Purpose::Join, &code.replace("pair", "join")).unwrap_err().message.contains("mistyped"));
    }
}
