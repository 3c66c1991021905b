export function Wordmark() {
  return (
    <span class="wordmark">
      <svg viewBox="0 0 24 24" width="22" height="22" aria-hidden="true">
        <path class="wordmark-line" d="M4 6h16" />
        <path class="wordmark-wave" d="M2 15c3.3 0 3.3-3 6.7-3s3.3 3 6.6 3 3.4-3 6.7-3" />
        <path class="wordmark-wave faint" d="M2 20c3.3 0 3.3-3 6.7-3s3.3 3 6.6 3 3.4-3 6.7-3" />
      </svg>
      Tidemark
    </span>
  );
}
