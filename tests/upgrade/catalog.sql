-- The catalog node's database as of the schema before the migration 'movement kinds': made with
-- pg_dump --inserts --no-owner --no-privileges, from a shop in use. tests/it/upgrade.rs restores it.
--
-- PostgreSQL database dump
--


-- Dumped from database version 15.20 (Debian 15.20-0+deb12u1)
-- Dumped by pg_dump version 15.20 (Debian 15.20-0+deb12u1)

SET statement_timeout = 0;
SET lock_timeout = 0;
SET idle_in_transaction_session_timeout = 0;
SET client_encoding = 'UTF8';
SET standard_conforming_strings = on;
SELECT pg_catalog.set_config('search_path', '', false);
SET check_function_bodies = false;
SET xmloption = content;
SET client_min_messages = warning;
SET row_security = off;

SET default_tablespace = '';

SET default_table_access_method = heap;

--
-- Name: _sqlx_migrations; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public._sqlx_migrations (
    version bigint NOT NULL,
    description text NOT NULL,
    installed_on timestamp with time zone DEFAULT now() NOT NULL,
    success boolean NOT NULL,
    checksum bytea NOT NULL,
    execution_time bigint NOT NULL
);


--
-- Name: audit_log; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.audit_log (
    id bigint NOT NULL,
    at timestamp with time zone DEFAULT now() NOT NULL,
    user_id uuid NOT NULL,
    username text NOT NULL,
    action text NOT NULL,
    actor text NOT NULL,
    reason text NOT NULL,
    request_id text NOT NULL
);


--
-- Name: audit_log_id_seq; Type: SEQUENCE; Schema: public; Owner: -
--

ALTER TABLE public.audit_log ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME public.audit_log_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);


--
-- Name: categories; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.categories (
    id bigint NOT NULL,
    name text NOT NULL,
    parent_id bigint,
    level integer NOT NULL
);


--
-- Name: categories_id_seq; Type: SEQUENCE; Schema: public; Owner: -
--

ALTER TABLE public.categories ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME public.categories_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);


--
-- Name: customers; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.customers (
    id uuid NOT NULL,
    username text,
    email text,
    role text,
    version bigint NOT NULL,
    deleted boolean NOT NULL,
    CONSTRAINT customers_role_check CHECK ((role = ANY (ARRAY['USER'::text, 'ADMIN'::text])))
);


--
-- Name: dead_letters; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.dead_letters (
    id uuid NOT NULL,
    queue text NOT NULL,
    event text NOT NULL,
    message_id text,
    version bigint,
    reason text NOT NULL,
    first_failed_at timestamp with time zone NOT NULL,
    tries integer NOT NULL,
    headers jsonb NOT NULL,
    properties jsonb NOT NULL,
    payload bytea NOT NULL,
    kept_at timestamp with time zone DEFAULT now() NOT NULL
);


--
-- Name: idempotency_keys; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.idempotency_keys (
    caller uuid NOT NULL,
    name text NOT NULL,
    fingerprint text NOT NULL,
    status smallint NOT NULL,
    body bytea NOT NULL,
    kept_until timestamp with time zone NOT NULL
);


--
-- Name: outbox; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.outbox (
    id bigint NOT NULL,
    message_id uuid NOT NULL,
    event text NOT NULL,
    version bigint,
    body text NOT NULL,
    traceparent text,
    created_at timestamp with time zone DEFAULT now() NOT NULL
);


--
-- Name: outbox_id_seq; Type: SEQUENCE; Schema: public; Owner: -
--

ALTER TABLE public.outbox ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME public.outbox_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);


--
-- Name: products; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.products (
    id bigint NOT NULL,
    name text NOT NULL,
    price bigint NOT NULL,
    storage_quantity bigint NOT NULL,
    category_id bigint NOT NULL,
    version bigint DEFAULT 1 NOT NULL,
    CONSTRAINT products_price_check CHECK ((price >= 0))
);


--
-- Name: products_id_seq; Type: SEQUENCE; Schema: public; Owner: -
--

ALTER TABLE public.products ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME public.products_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);


--
-- Name: resyncs; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.resyncs (
    id bigint NOT NULL,
    asked_at timestamp with time zone DEFAULT now() NOT NULL,
    worked_at timestamp with time zone,
    done_at timestamp with time zone,
    people bigint DEFAULT 0 NOT NULL,
    movements bigint DEFAULT 0 NOT NULL,
    products bigint DEFAULT 0 NOT NULL,
    trouble text
);


--
-- Name: resyncs_id_seq; Type: SEQUENCE; Schema: public; Owner: -
--

ALTER TABLE public.resyncs ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME public.resyncs_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);


--
-- Name: stock_movements; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.stock_movements (
    id uuid NOT NULL,
    product_id bigint NOT NULL,
    delta bigint NOT NULL,
    cause text NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL
);


--
-- Data for Name: _sqlx_migrations; Type: TABLE DATA; Schema: public; Owner: -
--

INSERT INTO public._sqlx_migrations VALUES
	(1, 'catalog', '2026-11-25 21:51:42.256014+00', true, '\x27c56b62fdddbfe884ca1a00ce1aebfcdd0fda65fb7c30400f49cc0f6758c866f86aa02762899547260f2f765c1d9666', 132178330),
	(2, 'outbox', '2026-11-25 21:51:42.400441+00', true, '\x2107abb952ba3d96a3771796febb506a1dac14c9415a6e0f1ea722072bf17d506d993d152dcb48bf2504c6730a2d3cc4', 27927775),
	(3, 'customers', '2026-11-25 21:51:42.440295+00', true, '\x2b139d6793b153e639e5d32d6673989be19ee33871108e85a64350c29313e832645a46e253506d0e212c735d734a789c', 24111215),
	(4, 'idempotency keys', '2026-11-25 21:51:42.476363+00', true, '\x94fd8e587d129951c6def4d2a4ba179c1db642434187a764c202e26e8c280725d6c3aab79dd063657426af748f43bc25', 36020966),
	(5, 'dead letters', '2026-11-25 21:51:42.524272+00', true, '\xa92ffd303c0be7c6109fc15dbaabb4e1987c155911a28b2ab0bc897d704916d7041e06eb5c4088ec45b4e48919256e1f', 25742573),
	(6, 'resyncs', '2026-11-25 21:51:42.552998+00', true, '\xb566bd13602f87873e29b11d811951f897ef48d631b7c6e2bd43b441e3117a8c763c949a11533363e7db9577b2ee579e', 33537111),
	(7, 'audit log', '2026-11-25 21:51:42.596257+00', true, '\xb69fb9f7046a510a5af15e993fd651f16e83bff5103605b8c938f8fb873205a85539890e3482174207898e8bbc1197ea', 24096884);


--
-- Data for Name: audit_log; Type: TABLE DATA; Schema: public; Owner: -
--

INSERT INTO public.audit_log OVERRIDING SYSTEM VALUE VALUES
	(1, '2026-11-25 21:52:32.925677+00', '01a214b1-74b5-72c4-bafd-d70a3863bc11', 'admin', 'restart', 'shop/catalog/catalog/0', 'Проверка', '4f37b0f7-0bef-4534-a43d-e94937c07b21');


--
-- Data for Name: categories; Type: TABLE DATA; Schema: public; Owner: -
--

INSERT INTO public.categories OVERRIDING SYSTEM VALUE VALUES
	(1, 'Kitchen', NULL, 0),
	(2, 'Чайники', 1, 1);


--
-- Data for Name: customers; Type: TABLE DATA; Schema: public; Owner: -
--

INSERT INTO public.customers VALUES
	('01a214b1-74b5-72c4-bafd-d70a3863bc11', 'admin', 'admin@example.com', 'ADMIN', 1, false),
	('01a214b1-de64-72e5-8333-b855c46d9090', 'anna', 'anna@example.com', 'USER', 1, false),
	('01a214b1-df55-74bb-baca-9b3c101a5d02', 'bob', 'bob@example.com', 'USER', 2, true),
	('01a214b1-dfe4-76b0-a980-90cedfe527b4', 'dora', 'dora@example.com', 'ADMIN', 2, false);


--
-- Data for Name: dead_letters; Type: TABLE DATA; Schema: public; Owner: -
--

INSERT INTO public.dead_letters VALUES
	('cbf32373-faaa-49fb-bc5c-d8c1617f72a3', 'stock.moved', 'stock.moved', 'e05e8b7c-7802-49e0-b3a0-d999ddb5a0ae', 7, 'it ended its owner 3 times', '2026-11-20 10:00:00+00', 3, '{"version": 7}', '{"type": "stock.moved", "content_type": "application/json", "delivery_mode": 2}', '\x7b226d6f76656d656e7473223a5b7b226964223a2230316132313462322d303330642d373038662d383631612d326665316539343334323634222c2270726f647563745f6964223a322c2264656c7461223a2d322c226361757365223a226f726465722035227d2c7b226964223a2230316132313462322d303330642d373038662d383631612d326665326431323131326336222c2270726f647563745f6964223a332c2264656c7461223a2d322c226361757365223a226f726465722035227d2c7b226964223a2230316132313462322d303637352d373633362d396432382d623636626637383837356565222c2270726f647563745f6964223a332c2264656c7461223a312c226361757365223a226f726465722035227d5d7d', '2026-11-20 10:00:00+00'),
	('8c30298f-d1b4-4fe0-9f1d-911233545974', 'catalog.users', 'user_updated', '6fce18f1-a4b5-4096-9a98-a23dcb2c850a', 2, 'the body cannot be read: missing field `email` at line 1 column 40', '2026-11-20 11:00:00+00', 1, '{"version": 2}', '{"type": "user_updated", "content_type": "application/json", "delivery_mode": 2}', '\x7b226964223a2261306565626339392d396330622d346566382d626236642d366262396264333830613131227d', '2026-11-20 11:00:00+00');


--
-- Data for Name: idempotency_keys; Type: TABLE DATA; Schema: public; Owner: -
--



--
-- Data for Name: outbox; Type: TABLE DATA; Schema: public; Owner: -
--



--
-- Data for Name: products; Type: TABLE DATA; Schema: public; Owner: -
--

INSERT INTO public.products OVERRIDING SYSTEM VALUE VALUES
	(4, 'Saucer', 150, 31, 2, 1),
	(3, 'Cup', 300, 179, 2, 1),
	(2, 'Синий чайник', 2490, 40, 2, 1),
	(1, 'Blue teapot', 1990, 34, 2, 1);


--
-- Data for Name: resyncs; Type: TABLE DATA; Schema: public; Owner: -
--

INSERT INTO public.resyncs OVERRIDING SYSTEM VALUE VALUES
	(1, '2026-11-25 21:51:44.691984+00', '2026-11-25 21:51:44.800216+00', '2026-11-25 21:51:45.070992+00', 1, 0, 0, NULL),
	(2, '2026-11-25 21:52:19.098609+00', '2026-11-25 21:52:20.044584+00', '2026-11-25 21:52:20.10426+00', 4, 7, 0, NULL);


--
-- Data for Name: stock_movements; Type: TABLE DATA; Schema: public; Owner: -
--

INSERT INTO public.stock_movements VALUES
	('9c770d74-3af2-543f-a1a1-456676e7b17e', 1, 60, 'stocked', '2026-11-25 21:52:11.367989+00'),
	('eb5e8d1f-fa36-5e5d-8b98-8f1c42b406b0', 2, 50, 'stocked', '2026-11-25 21:52:11.483527+00'),
	('7b610bed-d5b2-5733-809b-5e8aa210a809', 3, 200, 'stocked', '2026-11-25 21:52:11.545459+00'),
	('a4e289a6-854f-5ccc-8419-6c33e401b20f', 4, 40, 'stocked', '2026-11-25 21:52:11.635207+00'),
	('01a214b1-e9eb-75df-bef7-45da0fdc2047', 1, -3, 'order 1', '2026-11-25 21:52:13.852498+00'),
	('01a214b1-e9eb-75df-bef7-45dbdffb5e23', 3, -6, 'order 1', '2026-11-25 21:52:13.852498+00'),
	('01a214b1-ea5c-72d6-a461-599c671dce1c', 3, 2, 'order 1', '2026-11-25 21:52:14.01074+00'),
	('d0eca151-816f-4a95-a3f1-39cd434657cb', 1, -2, 'sold at the spring fair', '2026-11-25 21:52:16.920039+00'),
	('07fc8574-f8f4-41b6-a3e9-1fe77cb6c0ce', 3, 1, 'brought back to the spring fair', '2026-11-25 21:52:16.920039+00'),
	('01a214b1-eb14-7443-8cb6-d1b686d03751', 2, -1, 'taken over: order 2', '2026-11-25 21:52:20.019949+00'),
	('01a214b1-eba8-71af-87c3-c13c0b43ee73', 4, -2, 'taken over: order 3', '2026-11-25 21:52:20.019949+00'),
	('01a214b2-02f3-7098-822d-d78066bb242b', 1, -1, 'order 4', '2026-11-25 21:52:20.23698+00'),
	('01a214b2-030d-708f-861a-2fe1e9434264', 2, -2, 'order 5', '2026-11-25 21:52:20.271155+00'),
	('01a214b2-030d-708f-861a-2fe2d12112c6', 3, -2, 'order 5', '2026-11-25 21:52:20.271155+00'),
	('01a214b2-0323-74e7-ad24-70ea846c7ef9', 3, -3, 'order 6', '2026-11-25 21:52:20.271155+00'),
	('01a214b2-0330-74f4-8e6b-650877b3ac56', 4, -1, 'order 7', '2026-11-25 21:52:20.298148+00'),
	('01a214b2-0330-74f4-8e6b-65098da0f925', 1, -2, 'order 7', '2026-11-25 21:52:20.298148+00'),
	('01a214b2-0384-73ec-91eb-f89c9aed51ef', 1, -2, 'order 8', '2026-11-25 21:52:20.367951+00'),
	('01a214b2-03a3-7510-9722-bf0f34b2f719', 2, -3, 'order 9', '2026-11-25 21:52:20.411661+00'),
	('01a214b2-03a3-7510-9722-bf10e3ae67d0', 3, -2, 'order 9', '2026-11-25 21:52:20.411661+00'),
	('01a214b2-03d6-7089-b6e3-79fb1114a8f1', 3, -1, 'order 10', '2026-11-25 21:52:20.470432+00'),
	('01a214b2-0404-7267-846d-4b817b0c9fd8', 4, -2, 'order 11', '2026-11-25 21:52:20.497799+00'),
	('01a214b2-0404-7267-846d-4b8275ba2215', 1, -2, 'order 11', '2026-11-25 21:52:20.497799+00'),
	('01a214b2-0444-701c-8df0-e3d326518e5b', 1, -3, 'order 12', '2026-11-25 21:52:20.576828+00'),
	('01a214b2-0483-71f0-99c8-9b322a19fe28', 2, -1, 'order 13', '2026-11-25 21:52:20.643413+00'),
	('01a214b2-0483-71f0-99c8-9b3382a7cef2', 3, -2, 'order 13', '2026-11-25 21:52:20.643413+00'),
	('01a214b2-04bd-73a5-abcf-c8a33dbb202f', 3, -2, 'order 14', '2026-11-25 21:52:20.67781+00'),
	('01a214b2-04e5-7087-bb5e-e72a3e62ffee', 4, -3, 'order 15', '2026-11-25 21:52:20.736899+00'),
	('01a214b2-04e5-7087-bb5e-e72b65c13f2f', 1, -2, 'order 15', '2026-11-25 21:52:20.736899+00'),
	('01a214b2-052d-715a-8bcc-022160ff3a8e', 1, -1, 'order 16', '2026-11-25 21:52:20.797794+00'),
	('01a214b2-053d-70e4-a5b0-311ffb053dc3', 2, -2, 'order 17', '2026-11-25 21:52:20.828024+00'),
	('01a214b2-053d-70e4-a5b0-3120f63de2b4', 3, -2, 'order 17', '2026-11-25 21:52:20.828024+00'),
	('01a214b2-0561-7283-babd-04ed8ee34503', 3, -3, 'order 18', '2026-11-25 21:52:20.847978+00'),
	('01a214b2-0579-77df-a154-1c2fcf5af3a0', 4, -1, 'order 19', '2026-11-25 21:52:20.883987+00'),
	('01a214b2-0579-77df-a154-1c305e0c4109', 1, -2, 'order 19', '2026-11-25 21:52:20.883987+00'),
	('01a214b2-05b2-7521-99c3-eab6442eb357', 1, -2, 'order 20', '2026-11-25 21:52:20.95781+00'),
	('01a214b2-05fc-753a-bc47-dd907299f3b9', 2, -3, 'order 21', '2026-11-25 21:52:21.006021+00'),
	('01a214b2-05fc-753a-bc47-dd91b67691a3', 3, -2, 'order 21', '2026-11-25 21:52:21.006021+00'),
	('01a214b2-0629-774c-bc45-950d0563cb5a', 1, -2, 'order 4', '2026-11-25 21:52:21.05308+00'),
	('01a214b2-0675-7636-9d28-b66bf78875ee', 3, 1, 'order 5', '2026-11-25 21:52:21.129076+00'),
	('01a214b2-069e-75de-82b9-548bbcf7d8a1', 2, 2, 'order 9', '2026-11-25 21:52:21.181565+00'),
	('01a214b2-06e8-763d-92da-5e50b8f04717', 1, -2, 'order 11', '2026-11-25 21:52:21.285097+00');


--
-- Name: audit_log_id_seq; Type: SEQUENCE SET; Schema: public; Owner: -
--

SELECT pg_catalog.setval('public.audit_log_id_seq', 1, true);


--
-- Name: categories_id_seq; Type: SEQUENCE SET; Schema: public; Owner: -
--

SELECT pg_catalog.setval('public.categories_id_seq', 2, true);


--
-- Name: outbox_id_seq; Type: SEQUENCE SET; Schema: public; Owner: -
--

SELECT pg_catalog.setval('public.outbox_id_seq', 4, true);


--
-- Name: products_id_seq; Type: SEQUENCE SET; Schema: public; Owner: -
--

SELECT pg_catalog.setval('public.products_id_seq', 4, true);


--
-- Name: resyncs_id_seq; Type: SEQUENCE SET; Schema: public; Owner: -
--

SELECT pg_catalog.setval('public.resyncs_id_seq', 2, true);


--
-- Name: _sqlx_migrations _sqlx_migrations_pkey; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public._sqlx_migrations
    ADD CONSTRAINT _sqlx_migrations_pkey PRIMARY KEY (version);


--
-- Name: audit_log audit_log_pkey; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.audit_log
    ADD CONSTRAINT audit_log_pkey PRIMARY KEY (id);


--
-- Name: categories categories_pkey; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.categories
    ADD CONSTRAINT categories_pkey PRIMARY KEY (id);


--
-- Name: customers customers_pkey; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.customers
    ADD CONSTRAINT customers_pkey PRIMARY KEY (id);


--
-- Name: dead_letters dead_letters_pkey; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.dead_letters
    ADD CONSTRAINT dead_letters_pkey PRIMARY KEY (id);


--
-- Name: idempotency_keys idempotency_keys_pkey; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.idempotency_keys
    ADD CONSTRAINT idempotency_keys_pkey PRIMARY KEY (caller, name);


--
-- Name: outbox outbox_pkey; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.outbox
    ADD CONSTRAINT outbox_pkey PRIMARY KEY (id);


--
-- Name: products products_pkey; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.products
    ADD CONSTRAINT products_pkey PRIMARY KEY (id);


--
-- Name: resyncs resyncs_pkey; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.resyncs
    ADD CONSTRAINT resyncs_pkey PRIMARY KEY (id);


--
-- Name: stock_movements stock_movements_pkey; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.stock_movements
    ADD CONSTRAINT stock_movements_pkey PRIMARY KEY (id);


--
-- Name: categories_parents_first; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX categories_parents_first ON public.categories USING btree (level, id);


--
-- Name: dead_letters_by_age; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX dead_letters_by_age ON public.dead_letters USING btree (first_failed_at, id);


--
-- Name: idempotency_keys_to_sweep; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX idempotency_keys_to_sweep ON public.idempotency_keys USING btree (kept_until);


--
-- Name: products_of_category; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX products_of_category ON public.products USING btree (category_id, id);


--
-- Name: stock_movements_of_product; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX stock_movements_of_product ON public.stock_movements USING btree (product_id);


--
-- Name: categories categories_parent_id_fkey; Type: FK CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.categories
    ADD CONSTRAINT categories_parent_id_fkey FOREIGN KEY (parent_id) REFERENCES public.categories(id);


--
-- Name: products products_category_id_fkey; Type: FK CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.products
    ADD CONSTRAINT products_category_id_fkey FOREIGN KEY (category_id) REFERENCES public.categories(id);


--
-- PostgreSQL database dump complete
--
