-- An event of many movements is long, and gone again in a moment: it is kept as it is, in its row where it fits, and never compressed.
alter table outbox alter column body set storage external;
alter table outbox set (toast_tuple_target = 8160);
