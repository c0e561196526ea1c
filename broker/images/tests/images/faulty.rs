//! Pulling from registries that fail, lie, or want a token.

use std::fs;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};

use imsup_images::registry::Credentials;
use serde_json::json;

use crate::archive::Layer;
use crate::image::{Compression, Image};
use crate::registry::pull_with;
use crate::server::{Answer, Asked, Faulty};
use crate::sources::{World, sample};
use crate::store::on_small_disk;

/// An image with a layer that takes several reads.
fn large() -> Image {
    let noise: Vec<u8> = (0..300_000_u32)
        .flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes())
        .collect();
    Image::new(&json!({}), vec![Layer::new().file("noise", noise)], Compression::Gzip)
}

/// An honest answer to a question for an image, whose manifest has any tag.
fn honest(image: &Image, asked: &Asked) -> Answer {
    let wanted = asked.path.rsplit('/').next().unwrap();
    if asked.path.contains("/manifests/") && !wanted.starts_with("sha256:") {
        return Answer::ok(image.manifest().content.clone());
    }
    let found = image.blobs.iter().find(|blob| blob.digest().to_string() == wanted);
    match found {
        Some(blob) => Answer::ok(blob.content.clone()),
        None if asked.path == "/v2/" => Answer::ok("{}"),
        None => Answer::status(404),
    }
}

fn is_layer(image: &Image, asked: &Asked) -> bool {
    asked.path.ends_with(&image.blobs[0].digest().to_string())
}

fn pull(world: &World, registry: &Faulty) -> Result<(), String> {
    let name = format!("{}/app:1", registry.address);
    pull_with(&world.store, &name, &Credentials::default()).map(drop)
}

/// The first byte that a question wants.
fn from(asked: &Asked) -> Option<usize> {
    asked
        .headers
        .get("range")?
        .strip_prefix("bytes=")?
        .strip_suffix('-')?
        .parse()
        .ok()
}

/// A part of an answer, for whoever asks for a part.
fn part(mut answer: Answer, asked: &Asked) -> Answer {
    if let Some(from) = from(asked) {
        let total = answer.body.len();
        answer.status = 206;
        answer
            .headers
            .push(("Content-Range", format!("bytes {from}-{}/{total}", total - 1)));
        answer.body.drain(..from);
    }
    answer
}

#[test]
fn a_full_disk_ends_a_download_which_leaves_nothing_there() {
    let Some(store) = on_small_disk("faulty::a_full_disk_ends_a_download_which_leaves_nothing_there") else {
        return;
    };
    let registry = Faulty::new(|asked, _| honest(&large(), asked));
    let name = format!("{}/app:1", registry.address);
    let error = pull_with(&store, &name, &Credentials::default()).unwrap_err();
    assert!(error.contains("no space left on the disk of the images"), "{error}");
    assert_eq!(fs::read_dir(store.path().join("partial")).unwrap().count(), 0);
}

#[test]
fn a_download_goes_on_where_it_was_cut() {
    let registry = Faulty::new(|asked, _| {
        let image = large();
        let mut answer = part(honest(&image, asked), asked);
        if is_layer(&image, asked) {
            answer.cut = Some(answer.body.len().min(100_000));
        }
        answer
    });
    let world = World::new();
    pull(&world, &registry).unwrap();
    let starts: Vec<usize> = registry.asked().iter().filter_map(from).collect();
    assert!(starts.len() >= 3 && starts.is_sorted() && starts[0] > 0, "{starts:?}");
}

#[test]
fn a_registry_without_parts_is_asked_from_the_beginning() {
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    let registry = Faulty::new(|asked, _| {
        let image = large();
        let mut answer = honest(&image, asked);
        if is_layer(&image, asked) && COUNT.fetch_add(1, Ordering::Relaxed) == 0 {
            answer.cut = Some(answer.body.len() / 2);
        }
        answer
    });
    pull(&World::new(), &registry).unwrap();
    assert_eq!(COUNT.load(Ordering::Relaxed), 2);
}

#[test]
fn the_next_pull_uses_what_an_interrupted_one_has() {
    let world = World::new();
    let image = large();
    let digest = image.blobs[0].digest();
    let half = image.blobs[0].content.len() / 2;
    fs::write(
        world.path("store/partial").join(digest.hex()),
        &image.blobs[0].content[..half],
    )
    .unwrap();
    let registry = Faulty::new(|asked, _| part(honest(&large(), asked), asked));
    pull(&world, &registry).unwrap();
    let starts: Vec<usize> = registry.asked().iter().filter_map(from).collect();
    assert_eq!(starts, [half]);
    // A beginning that is wrong is noticed by the digest, and not kept.
    let world = World::new();
    let partial = world.path("store/partial").join(digest.hex());
    fs::write(&partial, vec![0; half]).unwrap();
    let error = pull(&world, &registry).unwrap_err();
    assert!(error.contains("another content"), "{error}");
    assert!(!partial.exists());
    pull(&world, &registry).unwrap();
}

#[test]
fn other_content_than_the_manifest_says_is_refused() {
    let world = World::new();
    let longer = Faulty::new(|asked, _| {
        let image = large();
        let mut answer = honest(&image, asked);
        if is_layer(&image, asked) {
            answer.body.push(0);
        }
        answer
    });
    let error = pull(&world, &longer).unwrap_err();
    assert!(error.contains("longer than the"), "{error}");
    let other = Faulty::new(|asked, _| {
        let image = large();
        let mut answer = honest(&image, asked);
        if asked.path.contains("/blobs/") {
            answer.body[10] ^= 1;
        }
        answer
    });
    let error = pull(&world, &other).unwrap_err();
    assert!(error.contains("another content"), "{error}");
    let lying = Faulty::new(|asked, _| honest(&sample(Compression::Gzip), asked));
    let name = format!("{}/app@{}", lying.address, large().digest());
    let error = pull_with(&world.store, &name, &Credentials::default()).unwrap_err();
    assert!(error.contains("does not exist"), "{error}");
    let another = Faulty::new(|_, _| Answer::ok(large().manifest().content.clone()));
    let pin = sample(Compression::Gzip).digest();
    let name = format!("{}/app@{pin}", another.address);
    let error = pull_with(&world.store, &name, &Credentials::default()).unwrap_err();
    assert!(
        error.contains(&format!("the manifest {pin} has another content")),
        "{error}"
    );
    assert_eq!(world.store.list().unwrap(), []);
}

#[test]
fn answers_that_make_no_sense_are_bounded_and_said() {
    let world = World::new();
    for (answer, expected) in [
        (Answer::ok("<html>"), "no manifest"),
        (Answer::ok(vec![b' '; 5 << 20]), "longer than 4194304 bytes"),
        (Answer::status(429), "no more pulls for now"),
        (Answer::status(500), "answered 500: no reason was given"),
        (
            Answer {
                status: 403,
                body: br#"{"errors": [{"code": "DENIED", "message": "no\u001b[31m"}]}"#.to_vec(),
                ..Answer::default()
            },
            "refuses app (403): DENIED: no[31m",
        ),
        (Answer::status(401), "wants a login"),
    ] {
        let registry = Faulty::new(move |_, _| answer.clone());
        let error = pull(&world, &registry).unwrap_err();
        assert!(error.contains(expected), "{error}");
    }
    // A layer that never comes is given up.
    let registry = Faulty::new(|asked, _| {
        let image = large();
        match is_layer(&image, asked) {
            true => Answer::status(503),
            false => honest(&image, asked),
        }
    });
    let error = pull(&world, &registry).unwrap_err();
    assert!(error.contains("answered 503"), "{error}");
}

/// A registry that wants a token, and takes a token twice.
fn with_tokens(realm: fn(SocketAddr) -> String) -> Faulty {
    static ISSUED: AtomicUsize = AtomicUsize::new(0);
    static USED: AtomicUsize = AtomicUsize::new(0);
    Faulty::new(move |asked, address| {
        if asked.path.starts_with("/token?") {
            let number = ISSUED.fetch_add(1, Ordering::Relaxed) + 1;
            USED.store(0, Ordering::Relaxed);
            return Answer::ok(json!({"token": format!("t{number}")}).to_string());
        }
        let valid = format!("Bearer t{}", ISSUED.load(Ordering::Relaxed));
        let is_valid = asked.headers.get("authorization") == Some(&valid);
        if is_valid && USED.fetch_add(1, Ordering::Relaxed) < 2 {
            return honest(&large(), asked);
        }
        let challenge = format!(
            r#"Bearer realm="{}",service="test",scope="repository:app:pull""#,
            realm(address)
        );
        Answer {
            headers: vec![("WWW-Authenticate", challenge)],
            ..Answer::status(401)
        }
    })
}

#[test]
fn tokens_are_fetched_and_renewed() {
    let registry = with_tokens(|address| format!("http://{address}/token"));
    pull(&World::new(), &registry).unwrap();
    let asked = registry.asked();
    let tokens: Vec<&str> = asked
        .iter()
        .map(|asked| asked.path.as_str())
        .filter(|path| path.starts_with("/token"))
        .collect();
    assert!(tokens.len() >= 2, "{tokens:?}");
    assert!(tokens[0].contains("service=test"), "{tokens:?}");
    assert!(
        tokens[0].contains("scope=repository") && tokens[0].contains("pull"),
        "{tokens:?}"
    );
    // No login is known, so none is sent.
    let to_service = asked.iter().find(|asked| asked.path.starts_with("/token")).unwrap();
    assert!(!to_service.headers.contains_key("authorization"));
}

#[test]
fn a_token_service_without_a_certificate_gets_no_password() {
    let registry = Faulty::new(|_, _| Answer {
        headers: vec![(
            "WWW-Authenticate",
            r#"Bearer realm="http://tokens.example.org/token""#.to_owned(),
        )],
        ..Answer::status(401)
    });
    let error = pull(&World::new(), &registry).unwrap_err();
    assert!(error.contains("https only"), "{error}");
}
