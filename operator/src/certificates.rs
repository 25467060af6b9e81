//! The certificates of node-to-node traffic: one authority per cluster, and one certificate that all of its nodes share.
//! Pure apart from the randomness of the keys; [`crate::identity`] keeps them in Secrets.

use brainy_kubernetes::names;
use jiff::tz::TimeZone;
use jiff::{Span, Timestamp};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};
use x509_parser::extensions::GeneralName;
use x509_parser::pem::{Pem, parse_x509_pem};

/// How long the authority's certificate lasts.
const AUTHORITY_YEARS: i16 = 10;
/// How long a node certificate lasts.
const NODE_YEARS: i16 = 1;

const SECONDS_OF_A_YEAR: i64 = 366 * 24 * 3600;

/// Why a certificate could not be made.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The library refused: a damaged key or certificate in a Secret.
    #[error("can't make a certificate: {0}")]
    Generate(#[from] rcgen::Error),
    /// No such day.
    #[error("can't compute the validity of a certificate: {0}")]
    Date(#[from] jiff::Error),
}

/// A certificate with its key, both as PEM text. Its `Debug` shows no key.
#[derive(Clone, PartialEq, Eq)]
pub struct KeyedCertificate {
    /// The certificate.
    pub certificate: String,
    /// Its private key (PKCS #8).
    pub key: String,
}

impl std::fmt::Debug for KeyedCertificate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KeyedCertificate").field("certificate", &self.certificate).finish_non_exhaustive()
    }
}

/// The name that covers every node of a cluster: `*.<cluster>-nodes.<namespace>.svc`.
pub fn wildcard(cluster: &str, namespace: &str) -> String {
    names::node_dns("*", cluster, namespace)
}

/// A new authority for a cluster, valid from yesterday (clocks differ) for ten years.
pub fn new_authority(cluster: &str, now: Timestamp) -> Result<KeyedCertificate, Error> {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, format!("brainy-ca-{cluster}"));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    validity(&mut params, now, AUTHORITY_YEARS)?;
    let key = KeyPair::generate()?;
    Ok(KeyedCertificate { certificate: params.self_signed(&key)?.pem(), key: key.serialize_pem() })
}

/// A node certificate, signed by the authority, valid for one year, for both sides of a connection.
pub fn issue(authority: &KeyedCertificate, name: &str, now: Timestamp) -> Result<KeyedCertificate, Error> {
    let issuer = Issuer::from_ca_cert_pem(&authority.certificate, KeyPair::from_pem(&authority.key)?)?;
    let mut params = CertificateParams::new(vec![name.to_owned()])?;
    params.distinguished_name.push(DnType::CommonName, "brainy-node");
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.use_authority_key_identifier_extension = true;
    validity(&mut params, now, NODE_YEARS)?;
    let key = KeyPair::generate()?;
    Ok(KeyedCertificate { certificate: params.signed_by(&key, &issuer)?.pem(), key: key.serialize_pem() })
}

/// Whether a node certificate must be replaced: unreadable, for another name, or less than a third of its life left.
pub fn needs_renewal(certificate: &str, name: &str, now: Timestamp) -> bool {
    let Some(pem) = first_certificate(certificate) else {
        return true;
    };
    let Ok(parsed) = pem.parse_x509() else {
        return true;
    };
    let from = parsed.validity().not_before.timestamp();
    let until = parsed.validity().not_after.timestamp();
    let left = until.saturating_sub(now.as_second());
    !covers(certificate, name) || left.saturating_mul(3) < until.saturating_sub(from)
}

/// Whether an authority is to be replaced: what it signs must end before it does, and nodes need time to get to the next.
pub fn ends_soon(authority: &str, now: Timestamp) -> bool {
    let years = i64::from(NODE_YEARS) + 1;
    expires(authority).is_none_or(|until| until < now.as_second().saturating_add(years * SECONDS_OF_A_YEAR))
}

/// Whether a certificate is for this very name.
fn covers(certificate: &str, name: &str) -> bool {
    let Some(pem) = first_certificate(certificate) else {
        return false;
    };
    pem.parse_x509().is_ok_and(|parsed| {
        let names = parsed.subject_alternative_name().ok().flatten();
        names.is_some_and(|names| names.value.general_names.contains(&GeneralName::DNSName(name)))
    })
}

/// Whether nodes can still show a certificate: it has their name, and is not over.
pub fn is_usable(certificate: &str, name: &str, now: Timestamp) -> bool {
    covers(certificate, name) && expires(certificate).is_some_and(|until| until > now.as_second())
}

/// When a certificate ends, in seconds since 1970; `None`: it can't be read.
pub fn expires(certificate: &str) -> Option<i64> {
    let pem = first_certificate(certificate)?;
    pem.parse_x509().ok().map(|parsed| parsed.validity().not_after.timestamp())
}

/// What nodes trust: the authority, and those before it that are not yet over.
pub fn trust_bundle(authority: &str, before: Option<&str>, now: Timestamp) -> String {
    let mut bundle: Vec<String> = Vec::new();
    for wanted in certificates_in(authority) {
        if !bundle.contains(&wanted) {
            bundle.push(wanted);
        }
    }
    for earlier in certificates_in(before.unwrap_or_default()) {
        let alive = expires(&earlier).is_some_and(|until| until > now.as_second());
        if alive && !bundle.contains(&earlier) {
            bundle.push(earlier);
        }
    }
    bundle.join("\n") + "\n"
}

/// Whether the bundle trusts the authority already: all its certificates.
pub fn trusts(bundle: &str, authority: &str) -> bool {
    let trusted: Vec<String> = certificates_in(bundle).collect();
    certificates_in(authority).all(|certificate| trusted.contains(&certificate))
}

/// Whether two bundles trust the same, in any order.
pub fn same_authorities(one: &str, other: &str) -> bool {
    trusts(one, other) && trusts(other, one)
}

/// How many certificates a bundle holds.
pub fn count(bundle: &str) -> usize {
    certificates_in(bundle).count()
}

fn certificates_in(bundle: &str) -> impl Iterator<Item = String> + '_ {
    const END: &str = "-----END CERTIFICATE-----";
    bundle.split_inclusive(END).map(str::trim).filter(|part| part.ends_with(END)).map(str::to_owned)
}

fn first_certificate(text: &str) -> Option<Pem> {
    parse_x509_pem(text.as_bytes()).ok().map(|(_, pem)| pem).filter(|pem| pem.label == "CERTIFICATE")
}

/// Valid from yesterday until `years` from today, in whole days.
fn validity(params: &mut CertificateParams, now: Timestamp, years: i16) -> Result<(), Error> {
    let today = now.to_zoned(TimeZone::UTC).date();
    let from = today.checked_sub(Span::new().days(1))?;
    let until = today.checked_add(Span::new().years(years))?;
    params.not_before =
        rcgen::date_time_ymd(from.year().into(), from.month().unsigned_abs(), from.day().unsigned_abs());
    params.not_after =
        rcgen::date_time_ymd(until.year().into(), until.month().unsigned_abs(), until.day().unsigned_abs());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAME: &str = "*.demo-nodes.team.svc";

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn a_certificate_is_renewed_only_when_less_than_a_third_of_its_life_is_left() {
        let made = at("2026-01-10T12:00:00Z");
        let authority = new_authority("demo", made).unwrap();
        let node = issue(&authority, NAME, made).unwrap();
        assert!(!needs_renewal(&node.certificate, NAME, made));
        assert!(!needs_renewal(&node.certificate, NAME, at("2026-09-08T00:00:00Z")));
        assert!(needs_renewal(&node.certificate, NAME, at("2026-09-12T00:00:00Z")));
        assert!(needs_renewal(&node.certificate, NAME, at("2028-01-01T00:00:00Z")));
    }

    #[test]
    fn an_authority_is_replaced_before_it_ends_under_what_it_has_signed() {
        let authority = new_authority("demo", at("2026-01-10T12:00:00Z")).unwrap().certificate;
        assert!(!ends_soon(&authority, at("2033-12-01T00:00:00Z")));
        assert!(
            ends_soon(&authority, at("2034-02-01T00:00:00Z")),
            "a certificate of a year would outlive it in the next"
        );
        assert!(ends_soon("not a certificate", at("2026-01-10T12:00:00Z")));
    }

    #[test]
    fn a_certificate_for_another_name_or_a_damaged_one_is_replaced() {
        let now = at("2026-01-10T12:00:00Z");
        let node = issue(&new_authority("demo", now).unwrap(), NAME, now).unwrap();
        assert!(needs_renewal(&node.certificate, "*.other-nodes.team.svc", now));
        assert!(needs_renewal("not a certificate", NAME, now));
        assert!(needs_renewal("", NAME, now));
    }

    #[test]
    fn a_lost_authority_does_not_split_the_nodes_that_still_show_its_certificates() {
        let now = at("2026-01-10T12:00:00Z");
        let first = new_authority("demo", now).unwrap().certificate;
        let second = new_authority("demo", now).unwrap().certificate;
        let bundle = trust_bundle(&second, Some(&trust_bundle(&first, None, now)), now);
        assert!(trusts(&bundle, &first) && trusts(&bundle, &second));
        assert_eq!(trust_bundle(&second, Some(&bundle), now), bundle, "stable");
        let later = trust_bundle(&second, Some(&bundle), at("2040-01-01T00:00:00Z"));
        assert!(!trusts(&later, &first), "an authority that is over is dropped");
    }

    #[test]
    fn the_wildcard_covers_the_name_that_a_node_is_checked_against() {
        assert_eq!(wildcard("demo", "team"), NAME);
        assert_eq!(names::node_dns("demo-0", "demo", "team"), "demo-0.demo-nodes.team.svc");
    }

    #[test]
    fn debug_output_shows_no_private_key() {
        let authority = new_authority("demo", at("2026-01-10T12:00:00Z")).unwrap();
        assert!(!format!("{authority:?}").contains("PRIVATE KEY"));
    }
}
