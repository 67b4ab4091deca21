//! A server on 127.0.0.2 stands for the public Internet, and one on 127.0.0.1 for what it must not reach.

use std::{
    collections::HashMap,
    net::Ipv4Addr,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use axum::{
    Router,
    body::Body,
    extract::Path,
    http::{HeaderMap, HeaderValue},
    response::{IntoResponse, Redirect, Response},
    routing::get,
};
use llmrtc_core::tasks::Tasks;
use tokio::net::TcpListener;

use super::*;

const PUBLIC: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2));
const PRIVATE: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 1));
const GIF: &[u8] =
    b"GIF89a\x01\0\x01\0\x80\0\0\0\0\0\xFF\xFF\xFF,\0\0\0\0\x01\0\x01\0\0\x02\x01D\0;";

/// Answers a name with its lists in order, the last one again and again, and counts.
#[derive(Default)]
struct Names {
    answers: HashMap<&'static str, Mutex<Vec<Vec<IpAddr>>>>,
    asked: AtomicUsize,
}

impl Names {
    fn with(mut self, name: &'static str, answers: &[&[IpAddr]]) -> Self {
        let mut answers: Vec<_> = answers.iter().map(|answer| answer.to_vec()).collect();
        answers.reverse();
        self.answers.insert(name, Mutex::new(answers));
        self
    }
}

#[async_trait]
impl Resolver for Names {
    async fn resolve(&self, name: &str) -> io::Result<Vec<IpAddr>> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        let answers = self.answers.get(name).ok_or(io::ErrorKind::NotFound)?;
        let mut answers = answers.lock().unwrap();
        Ok(if answers.len() > 1 {
            answers.pop().unwrap()
        } else {
            answers[0].clone()
        })
    }
}

fn config(hosts: &[&str]) -> FetchConfig {
    FetchConfig {
        hosts: hosts.iter().map(|host| (*host).to_owned()).collect(),
        ..FetchConfig::default()
    }
}

fn fetcher(names: &Arc<Names>) -> ImageFetcher {
    let hosts = [
        "img.example",
        "evil.example",
        "mixed.example",
        "hop.example",
    ];
    let resolver: Arc<Names> = Arc::clone(names);
    ImageFetcher::build(
        &config(&hosts),
        resolver,
        |address| address == PUBLIC,
        |_| true,
    )
    .unwrap()
}

async fn endless() -> Body {
    let chunk = Bytes::from(vec![0; 64 * 1024]);
    Body::from_stream(futures_util::stream::repeat_with(move || {
        Ok::<_, io::Error>(chunk.clone())
    }))
}

/// A server on the address, and its port.
async fn serve(address: IpAddr, tasks: &Tasks) -> (u16, Arc<AtomicUsize>) {
    let hits = Arc::new(AtomicUsize::new(0));
    let listener = TcpListener::bind((address, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let to = move |host: &str, path: &str| Redirect::to(&format!("http://{host}:{port}/{path}"));
    let counter = Arc::clone(&hits);
    let router = Router::new()
        .route("/gif", get(async || GIF))
        .route("/svg", get(async || "<svg/>"))
        .route("/endless", get(endless))
        .route(
            "/announced",
            get(async || {
                (
                    HeaderMap::from_iter([(
                        header::CONTENT_LENGTH,
                        HeaderValue::from_static("10485761"),
                    )]),
                    GIF,
                )
            }),
        )
        .route("/never", get(std::future::pending::<()>))
        .route(
            "/to/{host}/{path}",
            get(async move |Path((host, path)): Path<(String, String)>| to(&host, &path)),
        )
        .route("/ftp", get(async || Redirect::to("ftp://img.example/gif")))
        .route(
            "/login",
            get(async || Redirect::to("http://u:p@img.example/gif")),
        )
        .route("/relative", get(async || Redirect::permanent("gif")))
        .route(
            "/hops/{n}",
            get(async move |Path(n): Path<u8>| -> Response {
                match n {
                    0 => GIF.into_response(),
                    n => Redirect::temporary(&format!("/hops/{}", n - 1)).into_response(),
                }
            }),
        )
        .layer(axum::middleware::from_fn(
            move |request, next: axum::middleware::Next| {
                counter.fetch_add(1, Ordering::Relaxed);
                next.run(request)
            },
        ));
    tasks
        .spawn("web", |_| async move {
            axum::serve(listener, router).await.unwrap();
        })
        .detach();
    (port, hits)
}

fn names() -> Arc<Names> {
    let names = Names::default()
        .with("img.example", &[&[PUBLIC]])
        .with("hop.example", &[&[PUBLIC]])
        .with("evil.example", &[&[PRIVATE]])
        .with("mixed.example", &[&[PUBLIC, PRIVATE]]);
    Arc::new(names)
}

#[tokio::test]
async fn h5_a_picture_on_the_list_is_fetched() {
    let tasks = Tasks::root("test");
    let (port, _) = serve(PUBLIC, &tasks).await;
    let fetcher = fetcher(&names());
    for path in ["gif", "relative", "to/hop.example/gif", "hops/3"] {
        let image = fetcher
            .fetch(&format!("http://img.example:{port}/{path}"))
            .await;
        assert_eq!(&image.unwrap().data[..], GIF, "{path}");
    }
}

#[tokio::test]
async fn h5_what_comes_back_has_bounds() {
    let tasks = Tasks::root("test");
    let (port, _) = serve(PUBLIC, &tasks).await;
    let fetcher = fetcher(&names());
    let fetch = async |path: &str| {
        fetcher
            .fetch(&format!("http://img.example:{port}/{path}"))
            .await
            .unwrap_err()
    };
    assert!(matches!(
        fetch("endless").await,
        FetchError::Image(ImageError::TooLarge)
    ));
    assert!(matches!(
        fetch("svg").await,
        FetchError::Image(ImageError::Unsupported)
    ));
    assert!(matches!(fetch("missing").await, FetchError::Status(404)));
    assert!(matches!(fetch("hops/4").await, FetchError::Redirects));
    assert!(matches!(fetch("ftp").await, FetchError::Url));
    assert!(matches!(fetch("login").await, FetchError::Url));
}

#[tokio::test(start_paused = true)]
async fn h5_a_host_that_says_nothing_is_left() {
    struct Silent;
    #[async_trait]
    impl Resolver for Silent {
        async fn resolve(&self, _: &str) -> io::Result<Vec<IpAddr>> {
            std::future::pending().await
        }
    }
    let fetcher = ImageFetcher::with_resolver(&config(&["img.example"]), Arc::new(Silent)).unwrap();
    let error = fetcher.fetch("https://img.example/gif").await.unwrap_err();
    assert!(matches!(error, FetchError::Timeout), "{error:?}");
}

/// T19. The server behind evil.example hears nothing.
#[tokio::test]
async fn h5_private_addresses_are_not_connected_to() {
    let tasks = Tasks::root("test");
    let (port, _) = serve(PUBLIC, &tasks).await;
    let (private_port, private_hits) = serve(PRIVATE, &tasks).await;
    let fetcher = fetcher(&names());
    for url in [
        format!("http://evil.example:{private_port}/gif"),
        // One public address beside the private one does not help.
        format!("http://mixed.example:{private_port}/gif"),
        // Nor does a redirect.
        format!("http://img.example:{port}/to/evil.example/gif"),
    ] {
        let error = fetcher.fetch(&url).await.unwrap_err();
        assert!(matches!(error, FetchError::NotPublic), "{url}: {error:?}");
        assert!(
            !format!("{error} {error:?}").contains("example"),
            "{error:?}"
        );
    }
    let error = fetcher
        .fetch(&format!("http://img.example:{port}/to/127.0.0.1/gif"))
        .await;
    assert!(matches!(error, Err(FetchError::Host)), "{error:?}");
    assert_eq!(private_hits.load(Ordering::Relaxed), 0);
}

/// T19. A name that changes between check and connection: there is no between.
#[tokio::test]
async fn h5_a_name_is_asked_once_for_each_connection() {
    let tasks = Tasks::root("test");
    let (port, _) = serve(PUBLIC, &tasks).await;
    let (_, private_hits) = serve(PRIVATE, &tasks).await;
    let names = Names::default().with("img.example", &[&[PUBLIC], &[PRIVATE]]);
    let names = Arc::new(names);
    let fetcher = fetcher(&names);
    let url = format!("http://img.example:{port}/gif");
    assert!(fetcher.fetch(&url).await.is_ok());
    assert_eq!(names.asked.load(Ordering::Relaxed), 1);
    // The next fetch asks again, and sees that the name has moved inside.
    let error = fetcher.fetch(&url).await.unwrap_err();
    assert!(matches!(error, FetchError::NotPublic), "{error:?}");
    // Also in the middle of a chain of redirects.
    let names = Arc::new(Names::default().with("img.example", &[&[PUBLIC], &[PUBLIC], &[PRIVATE]]));
    let error = self::fetcher(&names)
        .fetch(&format!("http://img.example:{port}/hops/2"))
        .await;
    assert!(matches!(error, Err(FetchError::NotPublic)), "{error:?}");
    assert_eq!(private_hits.load(Ordering::Relaxed), 0);
}

/// T19. None of these gets as far as a question to the resolver.
#[tokio::test]
async fn h5_tricks_with_addresses_are_refused() {
    struct Unasked;
    #[async_trait]
    impl Resolver for Unasked {
        async fn resolve(&self, name: &str) -> io::Result<Vec<IpAddr>> {
            panic!("asked for {name}")
        }
    }
    let config = config(&["img.example", "*.cdn.example"]);
    let fetcher = ImageFetcher::with_resolver(&config, Arc::new(Unasked)).unwrap();
    for url in [
        // Numbers in all spellings.
        "http://127.0.0.1/",
        "http://2130706433/",
        "http://0177.0.0.1/",
        "http://017700000001/",
        "http://0x7f.0.0.1/",
        "http://0x7f000001/",
        "http://127.1/",
        "http://127.0.1/",
        "http://0/",
        "http://①②⑦.0.0.1/",
        "http://%31%32%37.0.0.1/",
        "http://127.0.0.1./",
        "http://[::1]/",
        "http://[::]/",
        "http://[::ffff:127.0.0.1]/",
        "http://[::ffff:7f00:1]/",
        "http://[64:ff9b::7f00:1]/",
        "http://[2002:7f00:1::]/",
        "http://[fe80::1]/",
        "http://169.254.169.254/latest/meta-data/",
        "http://[fd00:ec2::254]/",
        "http://8.8.8.8/",
        // Names that are not on the list.
        "http://localhost/",
        "http://metadata.google.internal/",
        "http://127.0.0.1.nip.io/",
        "http://cdn.example/",
        "http://img.example./",
        "http://img.example.evil.example/",
        "http://evilimg.example/",
        "http://evilcdn.example/",
        "http://xn--mg-fka.example/",
        // Ports, schemes, credentials.
        "http://img.example:22/",
        "http://img.example:8080/",
        "https://img.example:6379/",
        "http://img.example:0/",
        "ftp://img.example/",
        "file:///etc/passwd",
        "gopher://img.example:80/",
        "data:image/gif;base64,R0lGODlh",
        "javascript:alert(1)",
        "http://user@img.example/",
        "http://:password@img.example/",
        "http://img.example@127.0.0.1/",
        "http://127.0.0.1#@img.example/",
        "http://127.0.0.1\\@img.example/",
        "//img.example/",
        "img.example/gif",
        "http://",
        "",
    ] {
        let error = fetcher.fetch(url).await.unwrap_err();
        assert!(
            matches!(error, FetchError::Url | FetchError::Host),
            "{url}: {error:?}"
        );
    }
    let long = format!("https://img.example/{}", "a".repeat(MAX_URL_BYTES));
    assert!(matches!(fetcher.fetch(&long).await, Err(FetchError::Url)));
    for url in [
        "https://img.example/",
        "http://IMG.example:80/",
        "https://a.b.cdn.example:443/",
    ] {
        assert!(fetcher.parse(url).is_ok(), "{url}");
    }
}

#[test]
fn h5_from_https_nothing_leads_to_http() {
    let fetcher = ImageFetcher::new(&config(&["img.example"])).unwrap();
    assert!(fetcher.parse("http://img.example/").is_ok());
    // Without a list there is nothing to fetch.
    let off = ImageFetcher::new(&FetchConfig::default()).unwrap();
    assert!(matches!(
        off.parse("https://img.example/"),
        Err(FetchError::Host)
    ));
}

#[test]
fn h5_the_list_holds_names() {
    for good in [
        "img.example",
        "IMG.Example",
        "*.example.org",
        "bücher.example",
    ] {
        assert_eq!(config(&[good]).validate(), Ok(()), "{good}");
    }
    for bad in [
        "",
        "*",
        "*.com",
        "*.",
        "10.0.0.1",
        "[::1]",
        "0x7f.1",
        "https://img.example",
        "img.example.",
        "a b",
        "img.example:80",
    ] {
        assert!(config(&[bad]).validate().is_err(), "{bad}");
    }
    let slow = FetchConfig {
        timeout: Duration::from_secs(61),
        ..FetchConfig::default()
    };
    assert!(slow.validate().is_err());
}
