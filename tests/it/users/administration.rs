//! What users change about themselves and administrators about users.

use futures::future::join_all;
use reqwest::Method;
use serde_json::json;
use shop_supervisor::Node;
use shop_tests::api::User;
use shop_tests::{PASSWORD, TestShop};
use uuid::Uuid;

use super::{ME, USERS, address, login, register, set_role};

#[tokio::test]
async fn only_administrators_manage_users() {
    let shop = TestShop::start().await;
    let admin = shop.admin().await;
    let anna = shop.user("Анна").await;
    let (one, stranger) = (format!("{USERS}/{}", anna.id()), format!("{USERS}/{}", Uuid::new_v4()));
    let role = |user: &str| format!("{user}/role");
    let to_user = Some(json!({"role": "USER"}));
    let calls = [
        (Method::GET, ME.to_owned(), None, [401, 200, 200]),
        (Method::PUT, ME.to_owned(), Some(json!({})), [401, 200, 200]),
        (Method::PUT, ME.to_owned(), Some(json!([])), [401, 422, 422]),
        (Method::GET, USERS.to_owned(), None, [401, 403, 200]),
        (Method::GET, format!("{USERS}/"), None, [401, 403, 200]),
        (Method::GET, one.clone(), None, [401, 403, 200]),
        (Method::GET, stranger.clone(), None, [401, 403, 404]),
        (Method::PUT, role(&one), to_user.clone(), [401, 403, 200]),
        (Method::PUT, role(&one), Some(json!([])), [401, 403, 422]),
        (Method::PUT, role(&stranger), to_user, [401, 403, 404]),
        (Method::DELETE, stranger, None, [401, 403, 404]),
        (Method::DELETE, one, None, [401, 403, 200]),
    ];
    let anonymous = shop.anonymous();
    for (method, path, body, statuses) in calls {
        for (caller, status) in [&anonymous, &anna, &admin].into_iter().zip(statuses) {
            caller.send(method.clone(), Node::Auth, &path, body.clone()).await.expect(status);
        }
    }
    for id in ["x", "0", "%00", "%FF", "00000000-0000-0000-0000-00000000000g"] {
        let path = format!("{USERS}/{id}");
        admin.get(Node::Auth, &path).await.expect(400);
        admin.delete(Node::Auth, &path).await.expect(400);
        admin.put(Node::Auth, &role(&path), json!({"role": "USER"})).await.expect(400);
    }
    shop.close().await;
}

#[tokio::test]
async fn an_administrator_lists_all_users_without_passwords() {
    let shop = TestShop::start().await;
    let admin = shop.admin().await;
    let mut users = vec![admin.user().clone()];
    for name in ["Яна", "Анна", "Вера"] {
        users.push(shop.user(name).await.user().clone());
    }
    let listed = admin.get(Node::Auth, "/api/v1/users/").await;
    assert_eq!(listed.read::<Vec<User>>(200), users);
    for user in users {
        let path = format!("{USERS}/{}", user.id);
        assert_eq!(admin.get(Node::Auth, &path).await.read::<User>(200), user);
    }
    shop.close().await;
}

#[tokio::test]
async fn a_user_changes_its_username_and_email() {
    let shop = TestShop::start().await;
    let (anna, vera) = (shop.user("Анна").await, shop.user("Вера").await);
    let email = address();
    let mut expected = anna.user().clone();
    for changes in [
        json!({}),
        json!({"username": null, "email": null}),
        json!({"username": "АННА"}),
        json!({"username": "АННА"}),
        json!({"email": email}),
        json!({"username": "Нюра", "email": email.to_uppercase()}),
    ] {
        let changed: User = anna.put(Node::Auth, ME, changes.clone()).await.read(200);
        if let Some(username) = changes["username"].as_str() {
            expected.username = username.to_owned();
        }
        if let Some(email) = changes["email"].as_str() {
            expected.email = email.to_owned();
        }
        assert_eq!(changed, expected);
        assert_eq!(anna.get(Node::Auth, ME).await.read::<User>(200), expected);
    }
    login(&shop.anonymous(), "анна", PASSWORD).await.expect(401);
    login(&shop.anonymous(), "нюра", PASSWORD).await.expect(200);

    let taken = vera.user().email.to_uppercase();
    for taken in [
        json!({"username": "вера"}),
        json!({"email": taken}),
        json!({"username": "Люба", "email": taken}),
    ] {
        anna.put(Node::Auth, ME, taken).await.expect(409);
    }
    for (broken, fields) in [
        (json!({"username": "x"}), &["username"][..]),
        (json!({"email": "x"}), &["email"]),
        (json!({"username": "a b", "email": 7}), &["email", "username"]),
        (json!({"username": "Люба", "email": "x"}), &["email"]),
        (json!("Люба"), &["body"]),
    ] {
        let response = anna.put(Node::Auth, ME, broken).await;
        assert_eq!(response.invalid_fields(), fields, "{}", response.request);
    }
    let unchanged: User = anna.get(Node::Auth, ME).await.read(200);
    assert_eq!(unchanged, expected, "a refused change has no effect");
    shop.close().await;
}

#[tokio::test]
async fn a_role_is_user_or_admin() {
    let shop = TestShop::start().await;
    let (admin, anna) = (shop.admin().await, shop.user("anna").await);
    let path = format!("{USERS}/{}/role", anna.id());
    for role in [json!("admin"), json!("ROOT"), json!(""), json!(1), json!(null), json!(["ADMIN"])]
    {
        let response = admin.put(Node::Auth, &path, json!({"role": role})).await;
        assert_eq!(response.invalid_fields(), ["role"], "{}", response.request);
    }
    assert_eq!(admin.put(Node::Auth, &path, json!({})).await.invalid_fields(), ["role"]);
    let promoted = User { role: "ADMIN".to_owned(), ..anna.user().clone() };
    assert_eq!(set_role(&admin, &anna, "ADMIN").await.read::<User>(200), promoted);
    let users: Vec<User> = anna.get(Node::Auth, USERS).await.read(200);
    assert_eq!(users[1], promoted, "the new role is valid at once");
    shop.close().await;
}

#[tokio::test]
async fn the_last_administrator_cannot_be_demoted_or_deleted() {
    let shop = TestShop::start().await;
    let admin = shop.admin().await;
    let path = format!("{USERS}/{}", admin.id());
    shop.user("anna").await;
    set_role(&admin, &admin, "USER").await.expect(409);
    admin.delete(Node::Auth, &path).await.expect(409);
    set_role(&admin, &admin, "ADMIN").await.expect(200);

    let vera = shop.user("vera").await;
    set_role(&admin, &vera, "ADMIN").await.expect(200);
    admin.delete(Node::Auth, &path).await.expect(200);
    vera.delete(Node::Auth, &format!("{USERS}/{}", vera.id())).await.expect(409);
    set_role(&vera, &vera, "USER").await.expect(409);
    shop.close().await;
}

#[tokio::test]
async fn concurrent_removals_of_administrators_leave_one() {
    let shop = TestShop::start().await;
    let admin = shop.admin().await;
    let mut admins = vec![admin.clone()];
    for number in 0..5 {
        let other = shop.user(&format!("admin{number}")).await;
        set_role(&admin, &other, "ADMIN").await.expect(200);
        admins.push(other);
    }
    let removals = admins.iter().enumerate().flat_map(|(number, remover)| {
        admins.iter().map(move |other| async move {
            if number % 2 == 0 {
                set_role(remover, other, "USER").await
            } else {
                remover.delete(Node::Auth, &format!("{USERS}/{}", other.id())).await
            }
        })
    });
    for response in join_all(removals).await {
        assert!([200, 401, 403, 404, 409].contains(&response.status.as_u16()), "{response:?}");
    }
    let mut database = shop.settings.database(Node::Auth).await;
    let left = "select count(*) from users where role = 'ADMIN'";
    let left: i64 = sqlx::query_scalar(left).fetch_one(&mut database).await.expect("a count");
    assert_eq!(left, 1);
    shop.close().await;
}

#[tokio::test]
async fn a_deleted_user_cannot_log_in_and_the_name_is_free() {
    let shop = TestShop::start().await;
    let (admin, anna) = (shop.admin().await, shop.user("Анна").await);
    let path = format!("{USERS}/{}", anna.id());
    let message = admin.delete(Node::Auth, &path).await.expect(200);
    assert!(message["message"].is_string(), "{message}");

    anna.get(Node::Auth, ME).await.expect(401);
    anna.put(Node::Auth, ME, json!({})).await.expect(401);
    login(&shop.anonymous(), "Анна", PASSWORD).await.expect(401);
    admin.get(Node::Auth, &path).await.expect(404);
    admin.delete(Node::Auth, &path).await.expect(404);
    set_role(&admin, &anna, "ADMIN").await.expect(404);

    let email = anna.user().email.as_str();
    let successor: User = register(&shop.anonymous(), "Анна", email).await.read(201);
    assert_ne!(successor.id, anna.id());
    anna.get(Node::Auth, ME).await.expect(401);
    shop.close().await;
}
