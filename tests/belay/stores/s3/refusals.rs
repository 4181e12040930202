//! What a store refuses, and why, in words that tell what to do.

use belay::store::AccessFault;

use super::*;

fn fault(error: StoreError) -> AccessFault {
    match error {
        StoreError::Unreached { fault, .. } => fault,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn wrong_keys_and_a_missing_bucket_are_told_apart() {
    let bucket = Bucket::start();
    let right = s3_settings(&bucket.endpoint());
    let with_keys = |access: &str, secret: &str| {
        let credentials =
            S3Credentials { access_key: access.into(), secret_key: secret.into(), session_token: None };
        S3Settings { credentials: Some(credentials), ..right.clone() }
    };
    let stranger = open_bucket(&with_keys("AKIDSTRANGER", SECRET_KEY)).await;
    assert_eq!(fault(stranger.list("").await.unwrap_err()), AccessFault::UnknownKey);
    // The answer to HEAD has no body; another request is told the reason.
    assert_eq!(fault(stranger.head(&key("a")).await.unwrap_err()), AccessFault::UnknownKey);
    let liar = open_bucket(&with_keys(ACCESS_KEY, "wrong")).await;
    assert_eq!(fault(liar.list("").await.unwrap_err()), AccessFault::WrongSecret);
    let elsewhere = S3Store::open("no-such-bucket", "", &right, Conditions::Unknown).await.unwrap();
    assert_eq!(fault(elsewhere.list("").await.unwrap_err()), AccessFault::NoBucket);
}

#[tokio::test]
async fn the_region_that_the_store_names_is_told() {
    let bucket = Bucket::start();
    let malformed = "<?xml version=\"1.0\"?><Error><Code>AuthorizationHeaderMalformed</Code><Message>the region \
        'us-east-1' is wrong; expecting 'eu-central-1'</Message><Region>eu-central-1</Region></Error>";
    let moved = "HTTP/1.1 301 Moved Permanently\r\nx-amz-bucket-region: eu-central-1\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
    for said in [answer("400 Bad Request", malformed), Fault::Answer(moved.into())] {
        let proxy = Proxy::start(bucket.address(), move |_, _| said.clone());
        let store = open_bucket(&s3_settings(&proxy.endpoint())).await;
        let named = Some("eu-central-1".to_owned());
        assert_eq!(fault(store.list("").await.unwrap_err()), AccessFault::Region { named });
    }
}

#[rstest]
#[case("403 Forbidden", "RequestTimeTooSkewed", AccessFault::Clock)]
#[case("400 Bad Request", "ExpiredToken", AccessFault::Expired)]
#[case("404 Not Found", "NoSuchBucket", AccessFault::NoBucket)]
#[case("403 Forbidden", "InvalidAccessKeyId", AccessFault::UnknownKey)]
#[tokio::test]
async fn codes_have_their_meaning(
    #[case] status: &'static str,
    #[case] code: &'static str,
    #[case] meant: AccessFault,
) {
    let bucket = Bucket::start();
    let proxy = Proxy::start(bucket.address(), move |_, _| refusal(status, code));
    let store = open_bucket(&s3_settings(&proxy.endpoint())).await;
    assert_eq!(fault(store.list("").await.unwrap_err()), meant);
}

#[tokio::test]
async fn a_full_store_and_a_denied_write_are_named() {
    let bucket = Bucket::start();
    let saying = |status: &'static str, code: &'static str| {
        Proxy::start(bucket.address(), move |_, line| {
            if line.starts_with("PUT") { refusal(status, code) } else { Fault::None }
        })
    };
    let full = saying("507 Insufficient Storage", "XMinioStorageFull");
    let store = open_bucket(&s3_settings(&full.endpoint())).await;
    assert!(matches!(put(&store, "a", "x").await, Err(StoreError::Full { .. })));
    let denied = saying("403 Forbidden", "AccessDenied");
    let store = open_bucket(&s3_settings(&denied.endpoint())).await;
    assert!(matches!(put(&store, "a", "x").await, Err(StoreError::Denied { action: "write", .. })));
}

#[tokio::test]
async fn nobody_there_and_no_tls_are_named() {
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let settings = S3Settings { attempts: 2, ..s3_settings(&format!("http://{nobody}")) };
    let failed = open_bucket(&settings).await.list("").await.unwrap_err();
    assert!(matches!(fault(failed), AccessFault::Network(_)));

    let bucket = Bucket::start();
    let endpoint = format!("https://{}", bucket.address());
    let failed = open_bucket(&S3Settings { attempts: 1, ..s3_settings(&endpoint) }).await.list("").await;
    assert!(matches!(fault(failed.unwrap_err()), AccessFault::Tls(_)));
}

#[tokio::test]
async fn a_file_that_holds_no_certificate_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("ca.pem");
    for content in ["", "no certificate", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"] {
        std::fs::write(&path, content).unwrap();
        let settings = S3Settings { ca_file: Some(path.clone()), ..s3_settings("https://localhost:1") };
        let opened = S3Store::open(BUCKET, "", &settings, Conditions::Unknown).await;
        assert!(opened.unwrap_err().to_string().starts_with("read certificates in "), "{content:?}");
    }
}
