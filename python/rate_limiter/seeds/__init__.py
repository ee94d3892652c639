"""The classes that programs written for five public demos import. Nothing else imports them."""
