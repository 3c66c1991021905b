const TODAY = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" });
const EARLIER = new Intl.DateTimeFormat(undefined, { month: "short", day: "numeric", hour: "2-digit", minute: "2-digit", hourCycle: "h23" });

/** A moment in the reader's own time: the time today, the date too before. */
export function Moment({ at }: { at: string | null }) {
  if (at === null) return <span class="quiet">—</span>;
  const moment = new Date(at);
  const isToday = moment.toDateString() === new Date().toDateString();
  return (
    <time dateTime={at} title={moment.toLocaleString()}>
      {(isToday ? TODAY : EARLIER).format(moment)}
    </time>
  );
}
