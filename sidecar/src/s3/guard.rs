//! What is refused before the library sees it: ways of signing that prove too little, headers that are not signed and would be
//! obeyed, what is not implemented and would be ignored, and pages of the web that reach the loopback address.

use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, Uri, header};
use s3s::{S3Error, S3ErrorCode};

use super::access::{Access, denied};
use super::chunks::Framing;
use super::incoming::OwnTrailers;

const SIGNED_BY: &str = "AWS4-HMAC-SHA256";
const CONTENT_SHA256: &str = "x-amz-content-sha256";
/// Longest time that a signed address holds, in seconds: S3's own limit.
const LONGEST: u64 = 604_800;

/// What an address is signed with. No operation reads them.
const SIGNATURE: [&str; 7] = [
    "x-amz-algorithm",
    "x-amz-credential",
    "x-amz-date",
    "x-amz-expires",
    "x-amz-signedheaders",
    "x-amz-signature",
    "x-amz-security-token",
];
/// The same, of signatures of version 2.
const SIGNATURE_V2: [&str; 3] = ["signature", "awsaccesskeyid", "expires"];

/// Headers that may stand in a request once.
const ONCE: [HeaderName; 12] = [
    header::AUTHORIZATION,
    header::CONTENT_ENCODING,
    header::CONTENT_LENGTH,
    header::CONTENT_TYPE,
    header::DATE,
    header::HOST,
    header::IF_MATCH,
    header::IF_MODIFIED_SINCE,
    header::IF_NONE_MATCH,
    header::IF_UNMODIFIED_SINCE,
    header::RANGE,
    HeaderName::from_static("content-md5"),
];

/// Headers (or parameters of their names) that ask for what is not done: to ignore them would break what the client relies on.
const NOT_DONE: [&str; 18] = [
    "x-amz-bypass-governance-retention",
    "x-amz-copy-source-server-side-encryption-customer-algorithm",
    "x-amz-expected-bucket-owner",
    "x-amz-grant-full-control",
    "x-amz-grant-read",
    "x-amz-grant-read-acp",
    "x-amz-grant-write",
    "x-amz-grant-write-acp",
    "x-amz-if-match-last-modified-time",
    "x-amz-if-match-size",
    "x-amz-mfa",
    "x-amz-rename-source",
    "x-amz-server-side-encryption",
    "x-amz-server-side-encryption-customer-algorithm",
    "x-amz-source-expected-bucket-owner",
    "x-amz-tagging",
    "x-amz-website-redirect-location",
    "x-amz-write-offset-bytes",
];
/// The same, where only these values mean what is done anyway.
const DONE_ONLY_AS: [(&str, &[&str]); 4] = [
    ("x-amz-acl", &["private", "bucket-owner-full-control"]),
    ("x-amz-bucket-object-lock-enabled", &["false"]),
    ("x-amz-storage-class", &["STANDARD"]),
    ("x-amz-tagging-directive", &["COPY"]),
];

/// Looks at a request before the library does, and says what becomes of its body's chunks.
pub(super) fn check(parts: &mut Parts, access: &Access) -> Result<Framing, S3Error> {
    let query = query(&parts.uri)?;
    once(&parts.headers)?;
    let form = parts.headers.get(header::CONTENT_TYPE).is_some_and(|kind| {
        let kind = kind.as_bytes();
        kind.len() >= 9 && kind[..9].eq_ignore_ascii_case(b"multipart")
    });
    if parts.method == Method::POST && form {
        return Err(not_implemented("Uploads by a form are not implemented: use PutObject."));
    }
    match access {
        Access::Anyone => {
            not_from_a_page(&parts.headers)?;
            unsign(parts, &query);
        }
        Access::Keys(_) => signed(parts, &query)?,
    }
    only_what_is_done(parts, &query)?;
    Ok(framing(&parts.headers, access))
}

/// The parameters of an address, in order.
fn query(uri: &Uri) -> Result<Vec<(String, String)>, S3Error> {
    let bad = |_| S3Error::with_message(S3ErrorCode::InvalidURI, "The query of the address can't be read.");
    serde_urlencoded::from_str(uri.query().unwrap_or_default()).map_err(bad)
}

fn parameter<'a>(query: &'a [(String, String)], name: &str) -> Option<&'a str> {
    query.iter().find(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
}

/// A header that is given twice may be read as either by one who checks and one who obeys.
fn once(headers: &HeaderMap) -> Result<(), S3Error> {
    for name in headers.keys() {
        let matters = ONCE.contains(name) || name.as_str().starts_with("x-amz-");
        if matters && headers.get_all(name).iter().count() > 1 {
            return Err(invalid(format!("The header {name} is given more than once.")));
        }
    }
    Ok(())
}

/// Whoever has a browser on this machine can be made to send requests here by any page; what it sends says so.
fn not_from_a_page(headers: &HeaderMap) -> Result<(), S3Error> {
    let cross = headers.get("sec-fetch-site").is_some_and(|site| site != "none");
    if cross || headers.contains_key(header::ORIGIN) {
        return Err(denied("Requests of web pages are refused where requests need no signature."));
    }
    Ok(())
}

/// Nobody looks at signatures: they are taken away, so that nobody wants a key for them.
fn unsign(parts: &mut Parts, query: &[(String, String)]) {
    parts.headers.remove(header::AUTHORIZATION);
    let of_signature = |name: &String| {
        let name = name.to_ascii_lowercase();
        SIGNATURE.contains(&name.as_str()) || SIGNATURE_V2.contains(&name.as_str())
    };
    if !query.iter().any(|(name, _)| of_signature(name)) {
        return;
    }
    let kept: Vec<&(String, String)> = query.iter().filter(|(name, _)| !of_signature(name)).collect();
    let rest = serde_urlencoded::to_string(kept).unwrap_or_default();
    let path = parts.uri.path();
    if let Ok(uri) = format!("{path}?{rest}").parse() {
        hoisted(&mut parts.headers, query);
        parts.uri = uri;
    }
}

/// A request that must be signed: in a way that covers it.
fn signed(parts: &mut Parts, query: &[(String, String)]) -> Result<(), S3Error> {
    let given = parts.headers.get(header::AUTHORIZATION).map(|value| value.to_str().unwrap_or_default().to_owned());
    let in_query = parameter(query, "x-amz-signature").is_some();
    if SIGNATURE_V2[..2].iter().any(|name| parameter(query, name).is_some()) {
        return Err(other_mechanism());
    }
    match (given, in_query) {
        (Some(_), true) => Err(S3Error::with_message(
            S3ErrorCode::InvalidArgument,
            "Only one auth mechanism allowed; only the X-Amz-Algorithm query parameter, Signature query string parameter or the \
             Authorization header should be specified.",
        )),
        (Some(given), false) => {
            let rest = given.strip_prefix(SIGNED_BY).ok_or_else(other_mechanism)?;
            let field = |name: &str| rest.split(',').find_map(|field| field.trim().strip_prefix(name));
            for_s3(field("Credential=").unwrap_or_default())?;
            covers(&parts.headers, field("SignedHeaders=").unwrap_or_default(), &[])
        }
        (None, true) => {
            for_s3(parameter(query, "x-amz-credential").unwrap_or_default())?;
            let lasts = parameter(query, "x-amz-expires").and_then(|text| text.parse::<u64>().ok());
            if !lasts.is_some_and(|lasts| (1..=LONGEST).contains(&lasts)) {
                let message = format!("X-Amz-Expires must be a number of seconds from 1 to {LONGEST}.");
                return Err(S3Error::with_message(S3ErrorCode::AuthorizationQueryParametersError, message));
            }
            // Nobody knows the body when an address is signed.
            covers(&parts.headers, parameter(query, "x-amz-signedheaders").unwrap_or_default(), &[CONTENT_SHA256])?;
            hoisted(&mut parts.headers, query);
            Ok(())
        }
        (None, false) => Err(denied("Anonymous requests are not allowed: sign them.")),
    }
}

/// Keys are for S3 and not, say, for STS, of which less need be signed.
fn for_s3(credential: &str) -> Result<(), S3Error> {
    match credential.split('/').nth(3) {
        Some("s3") => Ok(()),
        _ => Err(invalid("The credential must be of the form ID/DATE/REGION/s3/aws4_request.".to_owned())),
    }
}

/// Whether all headers are signed that would be obeyed.
fn covers(headers: &HeaderMap, signed: &str, except: &[&str]) -> Result<(), S3Error> {
    let is_signed = |name: &str| signed.split(';').any(|signed| signed.eq_ignore_ascii_case(name));
    for name in headers.keys().map(HeaderName::as_str) {
        let matters = name == "host" || name.starts_with("x-amz-");
        if matters && !is_signed(name) && !except.contains(&name) {
            return Err(denied("There were headers present in the request which were not signed."));
        }
    }
    for name in signed.split(';') {
        if !headers.contains_key(name) {
            return Err(S3Error::with_message(
                S3ErrorCode::SignatureDoesNotMatch,
                "A header is signed that the request does not have.",
            ));
        }
    }
    Ok(())
}

/// Who signs an address puts headers into it, as parameters of their names: they mean the same.
fn hoisted(headers: &mut HeaderMap, query: &[(String, String)]) {
    for (name, value) in query {
        let name = name.to_ascii_lowercase();
        if !name.starts_with("x-amz-") || SIGNATURE.contains(&name.as_str()) || name == CONTENT_SHA256 {
            continue;
        }
        if let (Ok(name), Ok(value)) = (HeaderName::try_from(&name), HeaderValue::try_from(value)) {
            // What is a header of the request too is signed there.
            headers.entry(name).or_insert(value);
        }
    }
}

fn only_what_is_done(parts: &Parts, query: &[(String, String)]) -> Result<(), S3Error> {
    if let Some(name) = NOT_DONE.iter().find(|name| parts.headers.contains_key(**name)) {
        return Err(not_implemented(format!("What {name} asks for is not implemented.")));
    }
    for (name, values) in DONE_ONLY_AS {
        if let Some(value) = parts.headers.get(name)
            && !values.iter().any(|allowed| value == allowed)
        {
            return Err(not_implemented(format!("Of {name} only {} is implemented.", values.join(" or "))));
        }
    }
    if parameter(query, "versionId").is_some_and(|version| version != "null") {
        return Err(not_implemented("There are no versions of objects."));
    }
    Ok(())
}

fn framing(headers: &HeaderMap, access: &Access) -> Framing {
    let sha = headers.get(CONTENT_SHA256).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let streaming = sha.starts_with("STREAMING-");
    let decoded = headers.contains_key("x-amz-decoded-content-length");
    match access {
        Access::Anyone if streaming || decoded => Framing::TakenApart(OwnTrailers::default()),
        Access::Keys(_) if sha.starts_with("STREAMING-UNSIGNED-") => Framing::Cut,
        Access::Keys(_) if streaming => Framing::Signed,
        Access::Anyone | Access::Keys(_) => Framing::Plain,
    }
}

fn other_mechanism() -> S3Error {
    invalid(format!("The authorization mechanism you have provided is not supported. Please use {SIGNED_BY}."))
}

fn invalid(message: String) -> S3Error {
    S3Error::with_message(S3ErrorCode::InvalidRequest, message)
}

fn not_implemented(message: impl Into<std::borrow::Cow<'static, str>>) -> S3Error {
    S3Error::with_message(S3ErrorCode::NotImplemented, message)
}

#[cfg(test)]
mod tests {
    use axum::http::Request;

    use super::super::access::Keys;
    use super::*;

    fn parts(uri: &str, headers: &[(&str, &str)]) -> Parts {
        let mut request = Request::builder().method("PUT").uri(uri).header("host", "h");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap().into_parts().0
    }

    fn keyed() -> Access {
        Access::Keys(Keys::new("id", "secret"))
    }

    fn refusal(access: &Access, uri: &str, headers: &[(&str, &str)]) -> Option<String> {
        check(&mut parts(uri, headers), access).err().map(|error| error.code().as_str().to_owned())
    }

    fn by(signed: &str) -> String {
        format!("{SIGNED_BY} Credential=id/20260101/us-east-1/s3/aws4_request, SignedHeaders={signed}, Signature=00")
    }

    #[test]
    fn every_header_that_is_obeyed_must_be_signed() {
        let request = |signed: &str, headers: &[(&str, &str)]| {
            let (authorization, mut all) = (by(signed), headers.to_vec());
            all.push(("authorization", &authorization));
            refusal(&keyed(), "/b/k", &all)
        };
        let date = ("x-amz-date", "20260101T000000Z");
        assert_eq!(request("host;x-amz-date", &[date]), None);
        assert_eq!(request("host;x-amz-date", &[date, ("x-amz-meta-a", "b")]), Some("AccessDenied".into()));
        assert_eq!(request("x-amz-date", &[date]), Some("AccessDenied".into()), "without the host");
        assert_eq!(request("host;x-amz-date;x-amz-acl", &[date]), Some("SignatureDoesNotMatch".into()));
        assert_eq!(request("host;x-amz-date", &[date, date]), Some("InvalidRequest".into()), "given twice");
        assert_eq!(request("host;x-amz-date", &[date, ("user-agent", "me")]), None);
    }

    #[test]
    fn only_one_way_of_signing_is_taken() {
        assert_eq!(refusal(&keyed(), "/b/k", &[]), Some("AccessDenied".into()));
        assert_eq!(refusal(&keyed(), "/b/k", &[("authorization", "AWS id:c2ln")]), Some("InvalidRequest".into()));
        assert_eq!(
            refusal(&keyed(), "/b/k?AWSAccessKeyId=id&Signature=s&Expires=9", &[]),
            Some("InvalidRequest".into())
        );
        let sts = by("host").replace("/s3/", "/sts/");
        assert_eq!(refusal(&keyed(), "/b/k", &[("authorization", &sts)]), Some("InvalidRequest".into()));
        let query = "X-Amz-Credential=id/20260101/r/s3/aws4_request&X-Amz-SignedHeaders=host&X-Amz-Signature=0";
        let both = refusal(&keyed(), &format!("/b/k?{query}&X-Amz-Expires=9"), &[("authorization", &by("host"))]);
        assert_eq!(both, Some("InvalidArgument".into()));
        for (lasts, refused) in [("604800", false), ("604801", true), ("0", true), ("-1", true), ("x", true)] {
            let found = refusal(&keyed(), &format!("/b/k?{query}&X-Amz-Expires={lasts}"), &[]);
            assert_eq!(found.is_some(), refused, "{lasts}");
        }
    }

    #[test]
    fn headers_in_a_signed_address_are_headers() {
        let uri = "/b/k?X-Amz-Credential=id/20260101/r/s3/aws4_request&X-Amz-SignedHeaders=host&X-Amz-Signature=0\
            &X-Amz-Expires=9&x-amz-meta-a=b&X-Amz-Tagging=t";
        let mut signed = parts(uri, &[]);
        assert!(check(&mut signed, &keyed()).is_err(), "what is not done in a header is not done in an address");
        assert_eq!(signed.headers["x-amz-meta-a"], "b");
    }

    #[test]
    fn where_anyone_may_ask_signatures_are_taken_away() {
        let mut signed =
            parts("/b/k?X-Amz-Signature=0&X-Amz-Date=d&partNumber=1&x-amz-meta-a=b", &[("authorization", "AWS x:y")]);
        check(&mut signed, &Access::Anyone).unwrap();
        assert_eq!(signed.uri.query(), Some("partNumber=1&x-amz-meta-a=b"));
        assert!(!signed.headers.contains_key("authorization"));
        assert_eq!(signed.headers["x-amz-meta-a"], "b");
    }

    #[test]
    fn a_page_of_the_web_gets_nothing_where_anyone_may_ask() {
        for (name, value) in [("origin", "http://a"), ("origin", "null"), ("sec-fetch-site", "cross-site")] {
            assert_eq!(refusal(&Access::Anyone, "/b/k", &[(name, value)]), Some("AccessDenied".into()));
        }
        assert_eq!(refusal(&Access::Anyone, "/b/k", &[("sec-fetch-site", "none")]), None);
    }

    #[test]
    fn what_is_not_done_is_said() {
        for (name, value) in [
            ("x-amz-server-side-encryption", "AES256"),
            ("x-amz-tagging", "a=b"),
            ("x-amz-acl", "public-read"),
            ("x-amz-storage-class", "GLACIER"),
        ] {
            assert_eq!(refusal(&Access::Anyone, "/b/k", &[(name, value)]), Some("NotImplemented".into()), "{name}");
        }
        assert_eq!(refusal(&Access::Anyone, "/b/k?versionId=3", &[]), Some("NotImplemented".into()));
        assert_eq!(
            refusal(&Access::Anyone, "/b/k", &[("x-amz-acl", "private"), ("x-amz-storage-class", "STANDARD")]),
            None
        );
    }
}
