//! Lists for clients: in pages or whole, compressed if the client accepts it, and with an `ETag`.

use std::io::Write;
use std::str::FromStr;
use std::sync::{Arc, OnceLock};

use axum::body::{Body, Bytes};
use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use flate2::Compression;
use flate2::write::GzEncoder;
use futures::stream::{self, TryStreamExt};
use serde::{Deserialize, Serialize};
use shop_actors::Error;
use shop_persistence::InvalidValue;
use shop_persistence::pages::PageRequest;
use utoipa::IntoParams;
use uuid::Uuid;

use crate::body::Query;
use crate::problem::{Failure, Result};

/// The size of the pages in which a whole list is read and sent.
pub const STREAM_PAGE: Limit = Limit(1000);

/// The size from which a page is compressed, in bytes.
const MIN_COMPRESSED_LEN: usize = 1024;

/// Which page of a list.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct Paging {
    /// The maximum number of entries; without it the list is whole.
    #[param(value_type = Option<i64>, minimum = 1, maximum = 1000)]
    limit: Option<Limit>,
    /// Where the page begins: the cursor in the header `Link` of the page before.
    cursor: Option<String>,
}

/// The maximum number of entries in a page.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(try_from = "i64")]
pub struct Limit(i64);

impl Limit {
    /// As a number.
    pub fn get(self) -> usize {
        self.0 as usize
    }

    /// How many entries are read for a page: one more tells whether there is a next page.
    pub fn with_lookahead(self) -> i64 {
        self.0 + 1
    }
}

impl TryFrom<i64> for Limit {
    type Error = InvalidValue;

    fn try_from(limit: i64) -> Result<Limit, InvalidValue> {
        InvalidValue::unless_within(limit, 1..=1000).map(Limit)
    }
}

/// The value of the header `Link` to the next page.
pub fn link(next: &str) -> String {
    format!("<{next}>; rel=\"next\"")
}

/// A page of a list, rendered.
#[derive(Debug)]
pub struct Page {
    /// A JSON array.
    json: Bytes,
    /// The cursor of the next page, if there is one.
    next: Option<String>,
    etags: OnceLock<ETags>,
    compressed: OnceLock<Bytes>,
}

/// The `ETag`s of a page's plain and compressed form (RFC 9110, 8.8.3).
#[derive(Debug)]
struct ETags {
    plain: HeaderValue,
    compressed: HeaderValue,
}

impl Page {
    /// Renders the entries that were read for a page request. The one beyond the page's limit says
    /// that there is a next page.
    ///
    /// # Errors
    /// If an entry cannot be serialised.
    pub fn render<T: Serialize, C: ToString, A>(
        mut entries: Vec<T>,
        request: PageRequest<A>,
        cursor: impl FnOnce(&T) -> C,
    ) -> Result<Page, Error> {
        let has_more = entries.len() as i64 == request.limit;
        entries.truncate(usize::try_from(request.limit - 1).unwrap_or_default());
        let next = entries.last().filter(|_| has_more).map(|last| cursor(last).to_string());
        let json =
            serde_json::to_vec(&entries).map_err(|error| Error::Internal(error.into()))?.into();
        Ok(Page { json, next, etags: OnceLock::new(), compressed: OnceLock::new() })
    }

    /// The approximate size of both forms, in bytes.
    pub fn weight(&self) -> usize {
        self.json.len() * 5 / 4
    }

    fn etags(&self) -> &ETags {
        self.etags.get_or_init(|| {
            let hash = Uuid::new_v5(&Uuid::NAMESPACE_OID, &self.json).simple();
            let value = |text: String| {
                HeaderValue::try_from(text).unwrap_or(HeaderValue::from_static("\"\""))
            };
            ETags {
                plain: value(format!("\"{hash}\"")),
                compressed: value(format!("\"{hash}-gzip\"")),
            }
        })
    }

    /// Compressed once for all requests, and fast rather than small: a page of a thousand entries
    /// takes about a millisecond.
    fn compressed(&self) -> Bytes {
        let compress = || gzip(&self.json).expect("writing to memory does not fail").into();
        self.compressed.get_or_init(compress).clone()
    }

    /// The JSON array without its brackets.
    fn entries(&self) -> Bytes {
        self.json.slice(1..self.json.len() - 1)
    }
}

fn gzip(json: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut encoder = GzEncoder::new(vec![], Compression::fast());
    encoder.write_all(json)?;
    encoder.finish()
}

/// What a client asks of a list: a page or the whole list, and in which form.
#[derive(Debug)]
pub struct ListQuery<C> {
    limit: Option<Limit>,
    after: Option<C>,
    accepts_gzip: bool,
    /// The `ETag`s of what the client has.
    if_none_match: Option<HeaderValue>,
}

impl<S: Send + Sync, C: FromStr> FromRequestParts<S> for ListQuery<C> {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<ListQuery<C>, Failure> {
        let Query(Paging { limit, cursor }) = Query::from_request_parts(parts, state).await?;
        let after = cursor.map(|cursor| cursor.parse()).transpose().map_err(|_| {
            let detail = "the cursor is not valid; use the one in the last page's header Link";
            Failure::new(StatusCode::BAD_REQUEST, detail)
        })?;
        let if_none_match = parts.headers.get(header::IF_NONE_MATCH).cloned();
        let accepts_gzip = accepts_gzip(&parts.headers);
        Ok(ListQuery { limit, after, accepts_gzip, if_none_match })
    }
}

/// Whether the client accepts gzip (RFC 9110, 12.5.3).
fn accepts_gzip(headers: &HeaderMap) -> bool {
    let values = headers.get_all(header::ACCEPT_ENCODING).iter();
    let mut codings =
        values.filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(','));
    codings.any(|coding| {
        let (name, weight) = coding.split_once(';').unwrap_or((coding, ""));
        let weight = weight.trim().strip_prefix("q=").map(str::parse::<f32>);
        name.trim().eq_ignore_ascii_case("gzip") && !weight.is_some_and(|weight| weight == Ok(0.0))
    })
}

impl<C: FromStr + Send + 'static> ListQuery<C> {
    /// Responds with the requested page, or with the whole list. `fetch` reads a page; `path` is the
    /// list's path with its filter.
    ///
    /// # Errors
    /// Those of `fetch` for the first page.
    pub async fn respond<F>(
        self,
        path: &str,
        fetch: impl Fn(PageRequest<C>) -> F + Send + 'static,
    ) -> Result<Response>
    where
        F: Future<Output = Result<Arc<Page>, Error>> + Send + 'static,
    {
        let ListQuery { limit, after, accepts_gzip, if_none_match } = self;
        let size = limit.unwrap_or(STREAM_PAGE);
        let page = fetch(PageRequest { after, limit: size.with_lookahead() }).await?;
        if limit.is_none() && page.next.is_some() {
            return Ok(stream_all(page, fetch));
        }
        let mut response = page_response(&page, accepts_gzip, if_none_match);
        if let (Some(Limit(limit)), Some(cursor)) = (limit, &page.next) {
            let separator = if path.contains('?') { '&' } else { '?' };
            let next = link(&format!("{path}{separator}limit={limit}&cursor={cursor}"));
            if let Ok(next) = HeaderValue::try_from(next) {
                response.headers_mut().insert(header::LINK, next);
            }
        }
        Ok(response)
    }
}

const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// The client may store the page for its user and must revalidate it.
const REVALIDATE: HeaderValue = HeaderValue::from_static("private, no-cache");

/// A page, or 304 if the client has it.
fn page_response(page: &Page, accepts_gzip: bool, if_none_match: Option<HeaderValue>) -> Response {
    let etags = page.etags();
    let is_compressed = accepts_gzip && page.json.len() >= MIN_COMPRESSED_LEN;
    let mut response = Response::default();
    let headers = response.headers_mut();
    let etag = if is_compressed { &etags.compressed } else { &etags.plain };
    headers.insert(header::ETAG, etag.clone());
    headers.insert(header::CACHE_CONTROL, REVALIDATE);
    headers.insert(header::VARY, HeaderValue::from_static("accept-encoding"));
    if if_none_match.is_some_and(|header| matches(&header, etags)) {
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        return response;
    }
    headers.insert(header::CONTENT_TYPE, JSON);
    if is_compressed {
        headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    }
    let json = if is_compressed { page.compressed() } else { page.json.clone() };
    *response.body_mut() = Body::from(json);
    response
}

/// Whether `If-None-Match` names one of the forms (RFC 9110, 13.1.2).
fn matches(if_none_match: &HeaderValue, etags: &ETags) -> bool {
    let named = if_none_match.to_str().unwrap_or_default().split(',').map(str::trim);
    let mut named = named.map(|etag| etag.strip_prefix("W/").unwrap_or(etag));
    named.any(|etag| etag == "*" || *etag == etags.plain || *etag == etags.compressed)
}

/// Sends a list page by page. The next page is read when the client has received the last, so that
/// the list's length does not bound the memory. If a page cannot be read, the response is aborted.
fn stream_all<C: FromStr + Send + 'static, F>(
    first: Arc<Page>,
    fetch: impl Fn(PageRequest<C>) -> F + Send + 'static,
) -> Response
where
    F: Future<Output = Result<Arc<Page>, Error>> + Send + 'static,
{
    let start = (Bytes::from_static(b"["), Some(first), fetch);
    let pages = stream::try_unfold(start, move |(prefix, page, fetch)| async move {
        let Some(page) = page else { return Ok(None) };
        let next = match &page.next {
            Some(cursor) => {
                let after =
                    cursor.parse().map_err(|_| Error::Internal("an invalid cursor".into()))?;
                let limit = STREAM_PAGE.with_lookahead();
                Some(fetch(PageRequest { after: Some(after), limit }).await?)
            }
            None => None,
        };
        let has_more = next.iter().any(|next| !next.entries().is_empty());
        let separator = Bytes::from_static(if has_more { b"," } else { b"" });
        let end = Bytes::from_static(if next.is_none() { b"]" } else { b"" });
        let sent = stream::iter([prefix, page.entries(), end].map(Ok::<_, Error>));
        Ok::<_, Error>(Some((sent, (separator, next, fetch))))
    });
    ([(header::CONTENT_TYPE, JSON)], Body::from_stream(pages.try_flatten())).into_response()
}
