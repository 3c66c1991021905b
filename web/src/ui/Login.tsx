import { useComputed, useSignal } from "@preact/signals";

import { explain, explainField } from "../api/problem";
import { useDesk } from "./context";
import { Field } from "./Field";
import { Wordmark } from "./Wordmark";

/** The server's own rules for new users, said before it has to refuse. */
const USERNAME = /^[A-Za-z0-9][A-Za-z0-9_.-]{2,31}$/;
const USERNAME_RULE = "3 to 32 letters, digits, dots, dashes or underscores; a letter or digit first.";
const MIN_PASSWORD = 8;
const MAX_PASSWORD = 128;

/** Log in, or register: the same form, for the same two fields. */
export function Login({ notice }: { notice: string | null }) {
  const { session } = useDesk();
  const isNew = useSignal(false);
  const username = useSignal("");
  const password = useSignal("");
  const isBusy = useSignal(false);
  const isChecked = useSignal(false);
  const failure = useSignal<unknown>(null);
  const isBadName = useComputed(() => isNew.value && !USERNAME.test(username.value));
  const isTooShort = useComputed(() => isNew.value && password.value.length < MIN_PASSWORD);

  async function submit(event: Event): Promise<void> {
    event.preventDefault();
    isChecked.value = true;
    if (isBusy.value || isBadName.value || isTooShort.value) return;
    isBusy.value = true;
    failure.value = null;
    try {
      if (isNew.value) await session.register(username.value, password.value);
      else await session.login(username.value, password.value);
    } catch (error) {
      failure.value = error;
    } finally {
      isBusy.value = false;
    }
  }

  const nameError = isChecked.value && isBadName.value ? USERNAME_RULE : null;
  const usernameError = nameError ?? explainField(failure.value, "username");
  const shortError = isChecked.value && isTooShort.value ? `Use at least ${MIN_PASSWORD} characters.` : null;
  const passwordError = shortError ?? explainField(failure.value, "password");
  const hasFieldError = usernameError !== null || passwordError !== null;
  return (
    <main class="gate">
      <form class="gate-card" onSubmit={submit} data-testid="login-form">
        <Wordmark />
        <h1>{isNew.value ? "Create an account" : "Log in"}</h1>
        {notice !== null && failure.value === null && (
          <p class="note" role="status">
            {notice}
          </p>
        )}
        {failure.value !== null && !hasFieldError && (
          <p class="note bad" role="alert" data-testid="login-error">
            {explain(failure.value)}
          </p>
        )}
        <Field label="User name" error={usernameError}>
          {(attributes) => (
            <input
              {...attributes}
              data-testid="username"
              name="username"
              autocomplete="username"
              autocapitalize="none"
              spellcheck={false}
              required
              value={username}
              onInput={(event) => (username.value = event.currentTarget.value)}
            />
          )}
        </Field>
        <Field label="Password" {...(isNew.value && { hint: `at least ${MIN_PASSWORD} characters` })} error={passwordError}>
          {(attributes) => (
            <input
              {...attributes}
              data-testid="password"
              name="password"
              type="password"
              autocomplete={isNew.value ? "new-password" : "current-password"}
              required
              maxLength={MAX_PASSWORD}
              value={password}
              onInput={(event) => (password.value = event.currentTarget.value)}
            />
          )}
        </Field>
        <button type="submit" class="button primary wide" data-testid="submit-login" disabled={isBusy}>
          {isBusy.value ? "One moment…" : isNew.value ? "Create account" : "Log in"}
        </button>
        <button
          type="button"
          class="button plain wide"
          data-testid="switch-register"
          onClick={() => {
            isNew.value = !isNew.value;
            isChecked.value = false;
            failure.value = null;
          }}
        >
          {isNew.value ? "I have an account: log in" : "New here? Create an account"}
        </button>
      </form>
    </main>
  );
}
