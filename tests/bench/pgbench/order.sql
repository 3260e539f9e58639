\set first random(1, 100)
\set second 1 + (:first + random(0, 98)) % 100
\set buyer random(1, 64)
begin;
select id, name, price, quantity from products where id in (:first, :second) order by id for update;
insert into orders (user_id, total_quantity, total_price, status, created_at) values (md5(:buyer::text)::uuid, 3, 3000, 'created', now()) returning id \gset placed_
insert into order_items (order_id, product_id, product_quantity, product_name, product_price) values (:placed_id, :first, 1, 'Blue teapot number 7', 1000), (:placed_id, :second, 2, 'Blue teapot number 7', 1000);
update products set quantity = quantity - case when id = :first then 1 else 2 end where id in (:first, :second);
insert into outbox (message_id, event, body) values (gen_random_uuid(), 'order.placed', '{"id":"0197a5c6-3f9c-7000-8000-000000000000","items":[{"product_id":7,"delta":-1},{"product_id":8,"delta":-2}]}');
commit;
