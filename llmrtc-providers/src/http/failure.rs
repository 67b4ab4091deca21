//! From a vendor's answer to a classified error.

use std::time::SystemTime;

use llmrtc_core::{
    provider::{ErrorKind, Phase, ProviderError},
    redact::Secret,
};
use reqwest::{StatusCode, header::HeaderMap};
use serde_json::Value;

use super::{redact::redact, retry_after::retry_after};

/// Ways in which vendors say that the conversation no longer fits.
const CONTEXT_WORDING: &[&str] = &[
    "context_length_exceeded",
    "context length",
    "context window",
    "context size",
    "prompt is too long",
    "exceeds the maximum number of tokens",
    "input length and max_tokens exceed",
];

/// A failed request, with what is needed to correct and repeat it.
#[derive(Debug)]
pub(crate) struct Failure {
    /// The classified error.
    pub(crate) error: ProviderError,
    /// The status, unless the failure happened below HTTP.
    status: Option<StatusCode>,
    /// The parameter that the vendor names as the culprit.
    param: Option<String>,
    /// The vendor's sentence, redacted, for finding parameter names in it.
    sentence: String,
}

impl From<ProviderError> for Failure {
    fn from(error: ProviderError) -> Self {
        Self {
            error,
            status: None,
            param: None,
            sentence: String::new(),
        }
    }
}

impl Failure {
    pub(super) fn from_response(
        provider: &str,
        status: StatusCode,
        headers: &HeaderMap,
        body: &[u8],
        secrets: &[Secret],
    ) -> Self {
        let details = Details::parse(body);
        let kind = classify(status, &details);
        let sentence = redact(&details.message, secrets);
        let message = match (status.is_redirection(), sentence.is_empty()) {
            (true, _) => format!(
                "status {status}: redirects are not followed; set the base URL to the final address"
            ),
            (false, true) => format!("status {status}"),
            (false, false) => format!("status {status}: {sentence}"),
        };
        let mut error = ProviderError::new(kind, provider, message);
        if let Some(wait) = retry_after(headers, SystemTime::now()) {
            error = error.with_retry_after(wait);
        }
        match headers
            .get("x-should-retry")
            .and_then(|value| value.to_str().ok())
        {
            Some("true") => error = error.with_retryable(true),
            Some("false") => error = error.with_retryable(false),
            _ => {}
        }
        let request_id = headers
            .get("x-request-id")
            .or_else(|| headers.get("x-generation-id"))
            .and_then(|id| id.to_str().ok())
            .map(|id| redact(id, secrets));
        tracing::debug!(provider, status = status.as_u16(), request_id, kind = ?error.kind(), "request refused");
        Self {
            error,
            status: Some(status),
            param: details.param,
            sentence,
        }
    }

    /// The first of `sent` parameters that the vendor refused, if that is why the request failed.
    pub(crate) fn refused_parameter<'a>(&self, sent: &[&'a str]) -> Option<&'a str> {
        let refused = matches!(
            self.status,
            Some(StatusCode::BAD_REQUEST | StatusCode::UNPROCESSABLE_ENTITY)
        );
        if !refused || self.error.kind() != ErrorKind::InvalidRequest {
            return None;
        }
        if let Some(param) = &self.param
            && let Some(name) = sent.iter().find(|name| param == *name)
        {
            return Some(name);
        }
        sent.iter()
            .find(|name| names_word(&self.sentence, name))
            .copied()
    }

    /// Whether the vendor's sentence contains this text, ignoring case.
    pub(crate) fn says(&self, text: &str) -> bool {
        self.sentence.to_lowercase().contains(text)
    }
}

/// Maps the `error` member of a frame in a stream whose status was 200. Its code is a status number or a word.
pub(super) fn stream_error(provider: &str, error: &Value, secrets: &[Secret]) -> ProviderError {
    let details = Details::from_error(error);
    let status = details
        .code
        .parse::<u16>()
        .ok()
        .and_then(|code| StatusCode::from_u16(code).ok())
        .filter(|status| status.as_u16() >= 400);
    let kind = match status {
        Some(status) => classify(status, &details),
        None => classify_code(&details).unwrap_or(ErrorKind::Unavailable),
    };
    let message = match redact(&details.message, secrets) {
        empty if empty.is_empty() => "the vendor reported an error in the stream".to_owned(),
        sentence => format!("error in the stream: {sentence}"),
    };
    ProviderError::new(kind, provider, message)
}

/// Whether `name` stands in `text` by itself, not as a part of a longer name such as `max_tokens` in
/// `max_tokens_to_sample`.
fn names_word(text: &str, name: &str) -> bool {
    let part_of_name = |c: char| c.is_alphanumeric() || c == '_';
    text.match_indices(name).any(|(at, _)| {
        !text[..at].ends_with(part_of_name) && !text[at + name.len()..].starts_with(part_of_name)
    })
}

/// What vendors put into an error body, whichever shape they chose.
#[derive(Debug, Default)]
struct Details {
    message: String,
    /// `code`, or `type` where there is no code.
    code: String,
    param: Option<String>,
}

impl Details {
    fn parse(body: &[u8]) -> Self {
        let Ok(json) = serde_json::from_slice::<Value>(body) else {
            return Self::from_text(&String::from_utf8_lossy(body));
        };
        // Some gateways wrap the object into a list.
        let json = json.get(0).unwrap_or(&json);
        match (json.get("error"), json.get("detail")) {
            (Some(error), _) => Self::from_error(error),
            (None, Some(detail)) => Self::from_detail(detail),
            (None, None) => Self::from_error(json),
        }
    }

    /// `{message, code, type, param}`, or just a sentence.
    fn from_error(error: &Value) -> Self {
        if let Value::String(message) = error {
            return Self {
                message: message.clone(),
                ..Self::default()
            };
        }
        let text = |name: &str| match error.get(name) {
            Some(Value::String(text)) => text.clone(),
            Some(Value::Number(number)) => number.to_string(),
            _ => String::new(),
        };
        Self {
            message: text("message"),
            code: Some(text("code"))
                .filter(|code| !code.is_empty())
                .unwrap_or_else(|| text("type")),
            param: Some(text("param")).filter(|param| !param.is_empty()),
        }
    }

    /// FastAPI's `detail`: a sentence, or a list whose entries also quote the input. Only the first entry's place
    /// and sentence are taken, since the input is what somebody said.
    fn from_detail(detail: &Value) -> Self {
        let entry = detail.get(0).unwrap_or(detail);
        let Some(sentence) = entry.get("msg").and_then(Value::as_str) else {
            return Self::from_error(entry);
        };
        let place: Vec<&str> = entry
            .get("loc")
            .and_then(Value::as_array)
            .map(|parts| parts.iter().filter_map(Value::as_str).collect())
            .unwrap_or_default();
        Self {
            message: format!("{}: {sentence}", place.join(".")),
            param: place.last().map(|name| (*name).to_owned()),
            ..Self::default()
        }
    }

    fn from_text(text: &str) -> Self {
        let text = text.trim();
        let lower = text.get(..64).unwrap_or(text).to_ascii_lowercase();
        let message = if lower.starts_with("<!doctype") || lower.starts_with("<html") {
            "an HTML page instead of an API answer".to_owned()
        } else {
            text.to_owned()
        };
        Self {
            message,
            ..Self::default()
        }
    }

    fn mentions(&self, words: &[&str]) -> bool {
        let message = self.message.to_lowercase();
        words
            .iter()
            .any(|word| self.code == *word || message.contains(word))
    }
}

/// What the vendor's own code says, regardless of the status.
fn classify_code(details: &Details) -> Option<ErrorKind> {
    if details.mentions(CONTEXT_WORDING) {
        return Some(ErrorKind::ContextOverflow);
    }
    Some(match details.code.as_str() {
        "insufficient_quota" | "billing_hard_limit_reached" | "billing_not_active" => {
            ErrorKind::Billing
        }
        "rate_limit_exceeded" | "rate_limit_error" | "tokens" | "requests" => {
            ErrorKind::RateLimited
        }
        "model_not_found" => ErrorKind::NotFound,
        "invalid_api_key" | "authentication_error" => ErrorKind::Authentication,
        "content_filter" | "content_policy_violation" => ErrorKind::ContentFiltered,
        "server_error" | "overloaded_error" => ErrorKind::Unavailable,
        "invalid_request_error" => ErrorKind::InvalidRequest,
        _ => return None,
    })
}

fn classify(status: StatusCode, details: &Details) -> ErrorKind {
    let by_code = classify_code(details);
    match status.as_u16() {
        300..=399 => ErrorKind::Config,
        401 => ErrorKind::Authentication,
        402 => ErrorKind::Billing,
        // OpenRouter's guardrails answer 403 as well.
        403 if details.mentions(&["moderation", "flagged", "guardrail"]) => {
            ErrorKind::ContentFiltered
        }
        403 => ErrorKind::Permission,
        404 if details.mentions(&["model", "voice", "deployment"]) => ErrorKind::NotFound,
        408 => ErrorKind::Timeout(Phase::Total),
        409 | 425 => ErrorKind::Unavailable,
        413 if by_code == Some(ErrorKind::ContextOverflow) => ErrorKind::ContextOverflow,
        413 => ErrorKind::TooLarge,
        429 if by_code == Some(ErrorKind::Billing) => ErrorKind::Billing,
        429 => ErrorKind::RateLimited,
        400..=499 => match by_code {
            Some(
                kind @ (ErrorKind::ContextOverflow
                | ErrorKind::NotFound
                | ErrorKind::ContentFiltered
                | ErrorKind::Authentication),
            ) => kind,
            _ => ErrorKind::InvalidRequest,
        },
        500..=599 => ErrorKind::Unavailable,
        _ => ErrorKind::Other,
    }
}

#[cfg(test)]
mod tests {
    use llmrtc_core::provider::Retry;

    use super::*;

    fn failure(status: u16, body: &str) -> Failure {
        Failure::from_response(
            "p",
            StatusCode::from_u16(status).unwrap(),
            &HeaderMap::new(),
            body.as_bytes(),
            &[Secret::new("CANARY-known")],
        )
    }

    #[test]
    fn status_and_body_decide_the_kind() {
        use ErrorKind::*;
        let table = [
            (301, "", Config),
            (
                400,
                r#"{"error":{"message":"bad","code":null,"type":"invalid_request_error"}}"#,
                InvalidRequest,
            ),
            (
                400,
                r#"{"error":{"message":"x","code":"context_length_exceeded"}}"#,
                ContextOverflow,
            ),
            (
                400,
                r#"{"error":{"message":"This model's maximum context length is 8192 tokens; reduce max_tokens"}}"#,
                ContextOverflow,
            ),
            (
                400,
                r#"{"error":{"message":"x","code":"content_policy_violation"}}"#,
                ContentFiltered,
            ),
            (
                400,
                r#"{"error":{"message":"x","code":"model_not_found"}}"#,
                NotFound,
            ),
            (401, "", Authentication),
            (402, "", Billing),
            (
                403,
                r#"{"error":{"message":"Your input was flagged"}}"#,
                ContentFiltered,
            ),
            (403, r#"{"error":"region not supported"}"#, Permission),
            (
                404,
                r#"{"error":{"message":"The model `x` does not exist"}}"#,
                NotFound,
            ),
            (404, "Not Found", InvalidRequest),
            (408, "", Timeout(Phase::Total)),
            (409, "", Unavailable),
            (413, "", TooLarge),
            (
                413,
                r#"{"error":{"message":"prompt is too long"}}"#,
                ContextOverflow,
            ),
            (
                422,
                r#"{"detail":[{"loc":["body","voice"],"msg":"unknown","input":"private words"}]}"#,
                InvalidRequest,
            ),
            (425, "", Unavailable),
            (
                429,
                r#"{"error":{"message":"x","code":"insufficient_quota"}}"#,
                Billing,
            ),
            (
                429,
                r#"{"error":{"message":"x","code":"rate_limit_exceeded"}}"#,
                RateLimited,
            ),
            (429, "slow down", RateLimited),
            (500, "", Unavailable),
            (502, "<html><title>Bad gateway</title></html>", Unavailable),
            (503, "", Unavailable),
            (504, "", Unavailable),
            (529, "", Unavailable),
        ];
        for (status, body, kind) in table {
            assert_eq!(failure(status, body).error.kind(), kind, "{status} {body}");
        }
    }

    #[test]
    fn messages_are_readable_short_and_free_of_secrets_and_speech() {
        let html = failure(502, "<!DOCTYPE html><html>…</html>")
            .error
            .to_string();
        assert_eq!(
            html,
            "p: status 502 Bad Gateway: an HTML page instead of an API answer"
        );
        let validation =
            r#"{"detail":[{"loc":["body","voice"],"msg":"unknown","input":"private words"}]}"#;
        assert_eq!(
            failure(422, validation).error.to_string(),
            "p: status 422 Unprocessable Entity: body.voice: unknown"
        );
        let echo = failure(
            401,
            r#"{"error":{"message":"key CANARY-known and sk-CANARY-other are wrong"}}"#,
        );
        assert!(
            !format!("{echo:?} {}", echo.error).contains("CANARY"),
            "{echo:?}"
        );
        let long = failure(500, &"x".repeat(100_000)).error.to_string();
        assert!(long.chars().count() <= 304);
    }

    #[test]
    fn codes_inside_a_stream_are_numbers_or_words() {
        let table = [
            (
                r#"{"code":502,"message":"upstream"}"#,
                ErrorKind::Unavailable,
            ),
            (r#"{"code":"429","message":"slow"}"#, ErrorKind::RateLimited),
            (r#"{"code":"rate_limit_exceeded"}"#, ErrorKind::RateLimited),
            (r#"{"type":"server_error"}"#, ErrorKind::Unavailable),
            (
                r#"{"code":"context_length_exceeded"}"#,
                ErrorKind::ContextOverflow,
            ),
            (r#""something broke""#, ErrorKind::Unavailable),
            ("{}", ErrorKind::Unavailable),
        ];
        for (error, kind) in table {
            let error = stream_error("p", &serde_json::from_str(error).unwrap(), &[]);
            assert_eq!(error.kind(), kind, "{error}");
        }
    }

    #[test]
    fn a_refused_parameter_is_one_that_was_sent_and_named_by_itself() {
        let sent = ["max_tokens", "temperature"];
        let refused = |status, body| failure(status, body).refused_parameter(&sent);
        let openai = r#"{"error":{"message":"Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead.","type":"invalid_request_error","param":"max_tokens","code":"unsupported_parameter"}}"#;
        assert_eq!(refused(400, openai), Some("max_tokens"));
        let prose = r#"{"error":"temperature is not allowed here"}"#;
        assert_eq!(refused(400, prose), Some("temperature"));
        assert_eq!(refused(500, prose), None);
        assert_eq!(
            refused(400, r#"{"error":"max_tokens_to_sample is wrong"}"#),
            None
        );
        let overflow = r#"{"error":{"message":"maximum context length exceeded by max_tokens"}}"#;
        assert_eq!(refused(400, overflow), None);
    }

    #[test]
    fn the_vendor_has_the_last_word_on_retries() {
        let mut headers = HeaderMap::new();
        headers.insert("x-should-retry", "false".parse().unwrap());
        let stop = Failure::from_response("p", StatusCode::BAD_GATEWAY, &headers, b"", &[]);
        assert_eq!(stop.error.retry(), Retry::Never);
        headers.insert("x-should-retry", "true".parse().unwrap());
        headers.insert("retry-after-ms", "20".parse().unwrap());
        let again = Failure::from_response("p", StatusCode::BAD_REQUEST, &headers, b"", &[]);
        assert_eq!(
            again.error.retry(),
            Retry::After(Some(std::time::Duration::from_millis(20)))
        );
    }
}
